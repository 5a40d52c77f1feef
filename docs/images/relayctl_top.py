# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/relayctl-top.svg: what ``relayctl top`` shows for a relay under load.

The relay, its producers and its subscribers are real processes. Usage, in the checkout:
``.venv/bin/python docs/images/relayctl_top.py``
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

BIN = Path(sys.executable).parent
PICTURE = Path(__file__).with_name("relayctl-top.svg")
COLUMNS = 120
DEADLINE = 30.0
"""Seconds until the relay must be ready."""

PRODUCER = """
import itertools, json, logging, sys, time
from notif_relay import RelayHandler
path, publisher, rate, *event_types = sys.argv[1:]
open("/proc/self/comm", "w").write(publisher)  # the name that the relay shows
logger = logging.getLogger("notifications")
logger.addHandler(RelayHandler(path))
logger.setLevel(logging.INFO)
for number, event_type in enumerate(itertools.cycle(event_types)):
    logger.info(json.dumps({
        "message_id": f"{number:032x}", "publisher_id": publisher, "event_type": event_type,
        "priority": "INFO", "payload": {"text": "x" * 700},
        "timestamp": "2026-01-01 00:00:00.000000",
    }))
    time.sleep(1 / float(rate))
"""

PRODUCERS = {
    "nova-compute": ("310", "compute.instance.update", "compute.instance.create.end"),
    "neutron-server": ("120", "port.update.end", "port.create.end"),
    "cinder-volume": ("40", "volume.attach.end", "volume.create.end", "volume.usage"),
}


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[None]:
    """Run a program; stop it at the end."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def frame() -> str:
    """Return one frame of ``relayctl top``, taken after two seconds of traffic."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        place = Path(directory)
        stack.enter_context(running(BIN / "notif-relayd", "--runtime-dir", place))
        until = time.monotonic() + DEADLINE
        while not (place / "control.sock").exists():
            if time.monotonic() > until:
                raise TimeoutError("the relay is not ready")
            time.sleep(0.1)
        for name, arguments in PRODUCERS.items():
            producer = (sys.executable, "-c", PRODUCER, place / "ingest.sock", name, *arguments)
            stack.enter_context(running(*producer))
        stack.enter_context(
            running(BIN / "relayctl", "--runtime-dir", place, "tail", "--event-type", "compute.*")
        )
        top = subprocess.run(
            [BIN / "relayctl", "--runtime-dir", place, "top", "-n", "2", "--batch"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "FORCE_COLOR": "1"},
        )
    last = top.stdout.rindex("notif-relayd ")
    return top.stdout[top.stdout.rindex("\n", 0, last) + 1 :]


def main() -> None:
    """Draw the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(frame()))
    svg = console.export_svg(title="relayctl top")
    # The font is one of the reader's own: the documentation loads nothing from other hosts.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.write_text(svg.replace("Fira Code", "monospace"))


if __name__ == "__main__":
    main()
