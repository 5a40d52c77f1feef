# SPDX-License-Identifier: Apache-2.0
"""The page for authors of a consumer: its example, with its line of configuration, works."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from support.records import record
from support.relay import RunningRelay
from support.waiting import TIMEOUT, kill, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "oslo-consumer.rst"


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leave no process behind, whatever happens in the block."""
    with process:
        try:
            yield
        finally:
            kill(process)


def block(language: str) -> str:
    """The first one in this language."""
    found = re.search(rf"\.\. code-block:: {language}\n\n((?:(?:   .*)?\n)+)", PAGE.read_text())
    assert found is not None
    return textwrap.dedent(found[1])


def test_example_prints_the_documented_output(relay: RunningRelay) -> None:
    configuration = relay.directory / "consumer.conf"
    configured = block("ini").replace("/run/notif-relayd/notifications.sock", str(relay.public))
    assert str(relay.public) in configured
    configuration.write_text(configured)
    consumer = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", block("python"), "--config-file", configuration],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with ended(consumer), relay.produce() as producer:
        wait_until(lambda: relay.status()["bytes_delivered"], "it listens")
        assert consumer.stdout is not None
        # One after the other: the example prints from several threads.
        producer.sendall(
            record("volume.create", payload="no") + record("compute.instance.create", payload="yes")
        )
        assert consumer.stdout.readline() == "compute.instance.create yes\n"
        producer.sendall(
            record("compute.instance.update", "DEBUG", payload="no")
            + record("compute.instance.delete", "ERROR", payload="too")
        )
        assert consumer.stdout.readline() == "warning: compute.instance.delete too\n"
        consumer.send_signal(signal.SIGINT)
        output, _ = consumer.communicate(timeout=TIMEOUT)
        assert (output, consumer.returncode) == ("", 0)
