# SPDX-License-Identifier: Apache-2.0
"""Programs of real services, which `make test-services` installs from PyPI.

`make test-ceilometer` installs only ceilometer, and names its own environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.relay import quiet_environment
from support.waiting import TIMEOUT

ENVIRONMENT = Path(__file__).parents[2] / os.environ.get("NOTIF_RELAYD_SERVICES", ".venvs/services")


def program(name: str) -> str:
    """Return the path of a program in the environment of the services."""
    path = ENVIRONMENT / "bin" / name
    assert path.exists(), f"{path} is missing: make test-services installs it"
    return os.fspath(path)


def run_to_end(*command: str, **variables: str) -> str:
    """Run a program that succeeds, and return its standard output."""
    done = subprocess.run(
        command,
        env={**quiet_environment(), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def running_service(
    log: Path, *command: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service, whose output is in `log`, until the end of the block.

    The service gets SIGTERM. Its forked workers are killed if they are left.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**quiet_environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
        assert process.poll() is None, "the service has ended"
        process.terminate()
        process.wait(TIMEOUT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(TIMEOUT)
        sys.stderr.write(log.read_text())
