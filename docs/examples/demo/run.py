# SPDX-License-Identifier: Apache-2.0
"""Demonstration of the relay with real programs: `make demo`.

Two services (services.py) emit notifications, the relay sends them to two subscribers: nc, and a
short program in Python (subscriber.py). The demonstration checks and prints what they receive.
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
from notif_relayd.control.schema import Status

DEMO = Path(os.path.relpath(Path(__file__).parent))
LOGGING_SAMPLE = Path(os.path.relpath(Path(__file__).parents[3] / "etc/notif-relayd/logging.conf"))

SAMPLES = ("compute.instance.create.end", "port.create.end", "volume.attach.end")
"""Event types of the records to print; the last one contains a password."""

WIDTH = 100
"""Width of the output in columns."""


def main() -> int:
    """Run the demonstration and return the exit status."""
    # Commands are run and printed as a user types them, without their directory.
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
        # stdout is closed. Prevent Python from flushing the buffer again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def show(place: Stage) -> None:
    """Run the demonstration step by step."""
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

    step("3. Two services emit notifications through oslo.messaging's log driver.")
    print(f"   Their logging configuration is {LOGGING_SAMPLE}, with the socket of this relay.")
    emitted = emit(place)

    records = check({name: read(each, emitted, name) for name, each in subscribers.items()})
    step(f"4. Each subscriber has received all {emitted} notifications, unchanged. Three of them:")
    for event_type in SAMPLES:
        sample = next(each for each in records if event_type.encode() in each)
        print(indented(sample.decode()), end="\n\n")
    password = json.loads(sample)["payload"]["connection_info"]["auth_password"]
    if password != "***":
        raise DemoError(f"received a password that is not masked: {password}")
    print('   The log driver has replaced the password with "***".')

    step("5. An operator queries the status of the relay.")
    relayctl = run(place, "relayctl", "--runtime-dir", place.directory, "status")
    print(output(place, relayctl), end="")

    stop(relay)
    for name, subscriber in subscribers.items():
        if more := output(place, subscriber):
            raise DemoError(f"{name} has received more than was emitted: {more}")


def step(text: str) -> None:
    """Print the heading of a step."""
    print(f"\n{text}", flush=True)


def run(place: Stage, *command: str | Path) -> subprocess.Popen[bytes]:
    """Print a command and start it."""
    words = [os.fspath(word) for word in command]
    print(f"   $ {shlex.join(words)}", flush=True)
    return place.start(*words)


def output(place: Stage, process: subprocess.Popen[bytes]) -> str:
    """Return the remaining output of a process and wait until it exits."""
    text, _ = process.communicate()
    if process.returncode:
        raise DemoError(f"{process.args!r} failed: {place.log.read_text().strip()}")
    return text.decode()


def wait_for_subscribers(place: Stage, relay: subprocess.Popen[bytes], number: int) -> None:
    """Wait until the relay runs and has this number of subscribers."""
    while relay.poll() is None:
        with contextlib.suppress(CtlError):
            control = os.fspath(place.directory / CONTROL_SOCKET)
            if ask(control, "status", Status).subscribers == number:
                return
        time.sleep(0.02)
    raise DemoError(f"the relay has exited: {place.log.read_text().strip()}")


def emit(place: Stage) -> int:
    """Run the services and return the number of notifications that they have emitted."""
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
    """Return the records that a subscriber prints, `number` of them."""
    assert subscriber.stdout is not None
    records = []
    for record in subscriber.stdout:
        records.append(record)
        if len(records) == number:
            return records
    raise DemoError(f"{name} has received {len(records)} of {number} notifications")


def check(read_by: dict[str, list[bytes]]) -> list[bytes]:
    """Check that all subscribers received the same records without losses; return the records."""
    records, *others = read_by.values()
    if any(other != records for other in others):
        raise DemoError(f"{' and '.join(read_by)} have not received the same")
    notifications = [json.loads(record) for record in records]
    if any(each["event_type"].startswith(EVENT_TYPE_PREFIX) for each in notifications):
        raise DemoError("the relay reports that notifications were lost")
    if len({each["message_id"] for each in notifications}) != len(notifications):
        raise DemoError("a notification was received twice")
    return records


def indented(record: str) -> str:
    """Return a record wrapped to the width of the output."""
    indent = " " * 3
    return textwrap.fill(
        record, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


if __name__ == "__main__":
    sys.exit(main())
