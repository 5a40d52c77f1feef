# SPDX-License-Identifier: Apache-2.0
"""The whole way of a notification, with real parts only: `make demo`.

Two services (services.py) emit notifications, a relay carries them, and two subscribers read them:
nc, and a few lines of Python (subscriber.py). What arrives is checked, and shown.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path

from stage import DemoError, Stage, stage, stop

from notif_relay.paths import CONTROL_SOCKET, DEFAULT_INGEST_PATH, INGEST_SOCKET, PUBLIC_SOCKET
from notif_relay.records import EVENT_TYPE_PREFIX
from notif_relayctl.client import ask
from notif_relayctl.errors import CtlError
from notif_relayd.control.report import Status

DEMO = Path(os.path.relpath(Path(__file__).parent))
LOGGING_SAMPLE = Path(os.path.relpath(Path(__file__).parents[3] / "etc/notif-relayd/logging.conf"))

SAMPLES = ("compute.instance.create.end", "port.create.end", "volume.attach.end")
"""Event types of the records shown; the last has a password."""

WIDTH = 100
"""Columns."""


def main() -> int:
    """Show it; the exit status."""
    # The commands are run, and shown, the way a user types them.
    os.environ["PATH"] = f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', os.defpath)}"
    try:
        with stage() as place:
            show(place)
        print("\nEverything is stopped and removed again.", flush=True)
    except DemoError as error:
        sys.stderr.write(f"The demonstration failed: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; everything is stopped and removed.\n")
        return 130
    except BrokenPipeError:
        # Nobody looks on; what is left unwritten must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def show(place: Stage) -> None:
    """The demonstration, step by step."""
    public = place.directory / PUBLIC_SOCKET

    step("1. The relay starts.")
    relay = run(place, "notif-relayd", "--runtime-dir", place.directory)
    wait_for_subscribers(place, relay, 0)

    step("2. Two programs subscribe.")
    subscribers = {
        "nc": run(place, "nc", "-U", public),
        "subscriber.py": run(place, "python", DEMO / "subscriber.py", public),
    }
    wait_for_subscribers(place, relay, len(subscribers))

    step("3. Two services work, and tell of it through oslo.messaging's log driver.")
    print(f"   Their logging configuration is {LOGGING_SAMPLE}, with the socket of this relay.")
    emitted = emit(place)

    records = check({name: read(each, emitted, name) for name, each in subscribers.items()})
    step(f"4. Each subscriber has read all {emitted}, the same bytes. Three of them:")
    for event_type in SAMPLES:
        sample = next(each for each in records if event_type.encode() in each)
        print(indented(sample.decode()), end="\n\n")
    password = json.loads(sample)["payload"]["connection_info"]["auth_password"]
    if password != "***":
        raise DemoError(f"a password has arrived that is not masked: {password}")
    print('   The password has arrived as "***": the log driver masks it.')

    step("5. An operator asks how the relay is doing.")
    relayctl = run(place, "relayctl", "--runtime-dir", place.directory, "status")
    print(output(place, relayctl), end="")

    stop(relay)
    for name, subscriber in subscribers.items():
        if more := output(place, subscriber):
            raise DemoError(f"{name} has read more than was emitted: {more}")


def step(text: str) -> None:
    """Say what comes next."""
    print(f"\n{text}", flush=True)


def run(place: Stage, *command: str | Path) -> subprocess.Popen[bytes]:
    """Start a command, and show it."""
    words = [os.fspath(word) for word in command]
    print(f"   $ {shlex.join(words)}", flush=True)
    return place.start(*words)


def output(place: Stage, process: subprocess.Popen[bytes]) -> str:
    """What is left of a process's output until it ends."""
    text, _ = process.communicate()
    if process.returncode:
        raise DemoError(f"{process.args!r} has failed: {place.log.read_text().strip()}")
    return text.decode()


def wait_for_subscribers(place: Stage, relay: subprocess.Popen[bytes], number: int) -> None:
    """Wait until the relay runs and has so many subscribers."""
    while relay.poll() is None:
        with contextlib.suppress(CtlError):
            control = os.fspath(place.directory / CONTROL_SOCKET)
            if ask(control, "status", Status).subscribers == number:
                return
        time.sleep(0.02)
    raise DemoError(f"the relay has ended: {place.log.read_text().strip()}")


def emit(place: Stage) -> int:
    """Let the services emit all that they have to tell; how many notifications that was."""
    logging_conf = place.directory / "logging.conf"
    service_conf = place.directory / "service.conf"
    ingest = os.fspath(place.directory / INGEST_SOCKET)
    logging_conf.write_text(LOGGING_SAMPLE.read_text().replace(DEFAULT_INGEST_PATH, ingest))
    service_conf.write_text(f"[DEFAULT]\nlog_config_append = {logging_conf}\n")
    services = [
        run(place, "python", DEMO / "services.py", service, "--config-file", service_conf)
        for service in ("compute", "storage")
    ]
    return sum(int(output(place, service)) for service in services)


def read(subscriber: subprocess.Popen[bytes], number: int, name: str) -> list[bytes]:
    """The records that a subscriber has printed, which ought to be so many."""
    assert subscriber.stdout is not None
    records = []
    for record in subscriber.stdout:
        records.append(record)
        if len(records) == number:
            return records
    raise DemoError(f"{name} has read {len(records)} of {number} notifications")


def check(read_by: dict[str, list[bytes]]) -> list[bytes]:
    """The records, if all subscribers have the same, and each of them is one that was emitted."""
    records, *others = read_by.values()
    if any(other != records for other in others):
        raise DemoError(f"{' and '.join(read_by)} have not read the same")
    notifications = [json.loads(record) for record in records]
    if any(each["event_type"].startswith(EVENT_TYPE_PREFIX) for each in notifications):
        raise DemoError("notifications were lost, as a record of the relay's own tells")
    if len({each["message_id"] for each in notifications}) != len(notifications):
        raise DemoError("a notification has arrived twice")
    return records


def indented(record: str) -> str:
    """A record as lines that can be read."""
    indent = " " * 3
    return textwrap.fill(
        record, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


if __name__ == "__main__":
    sys.exit(main())
