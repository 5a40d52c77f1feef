# SPDX-License-Identifier: Apache-2.0
"""Helpers for the tests in the container: units, users, sockets and the journal.

Each wait is for an event of systemd, the journal or a socket, and has a deadline.
"""

import grp
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from systemd import journal

from notif_relay import paths
from support.waiting import wait_until

PUBLIC = f"{paths.RUNTIME_DIR}/{paths.PUBLIC_SOCKET}"
INGEST = f"{paths.RUNTIME_DIR}/{paths.INGEST_SOCKET}"
CONTROL = f"{paths.RUNTIME_DIR}/{paths.CONTROL_SOCKET}"

SERVICE = "notif-relayd.service"
PUBLIC_UNIT = "notif-relayd.socket"
INGEST_UNIT = "notif-relayd-ingest.socket"

CONFIGURATION = Path("/etc/notif-relayd/relayd.conf")
DROP_IN = Path(f"/run/systemd/system/{SERVICE}.d/test.conf")

DEADLINE = 20.0
"""Maximum duration of each step, in seconds."""

IFF_UP = 1
"""Flag of a network interface that is up; see netdevice(7)."""

Entry = dict[str, object]


def run(*command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command; with `user`, as this user with all of the user's groups."""
    if user is not None:
        command = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *command)
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


def create_users() -> None:
    """Create one user in each of the relay's groups, and one outside them."""
    groups = {"reader": "notif-subscribers", "writer": "notif-producers", "admin": "notif-relayd"}
    lines = [f"u {user} -" for user in (*groups, "outsider")]
    lines += [f"m {user} {group}" for user, group in groups.items()]
    made = run("systemd-sysusers", "--inline", *lines)
    assert made.returncode == 0, made.stderr


def systemctl(*arguments: str) -> str:
    """Run systemctl; wait for the private socket if the command concerns the public one."""
    done = run("systemctl", *arguments)
    assert done.returncode == 0, done.stderr
    if PUBLIC_UNIT in arguments:
        # systemctl does not wait for the private socket, which the public one starts; its file may
        # still belong to root.
        jobs = ("systemctl", "list-jobs")
        wait_until(
            lambda: INGEST_UNIT not in run(*jobs).stdout, "the private socket's job has ended"
        )
    return done.stdout


def show(name: str, unit: str = SERVICE) -> str:
    """Return a property of a unit."""
    return systemctl("show", "--value", f"--property={name}", unit).strip()


def wait_for_status_text(part: str) -> None:
    """Wait until the service's status text contains `part`."""
    end = time.monotonic() + DEADLINE
    while part not in (text := show("StatusText")):
        assert time.monotonic() < end, text


def states() -> tuple[str, str, str]:
    """Return the states of the service, the public socket and the private socket."""
    return show("ActiveState"), show("ActiveState", PUBLIC_UNIT), show("ActiveState", INGEST_UNIT)


def configure(*lines: str) -> None:
    """Write relayd.conf for the rest of the test."""
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.write_text("\n".join([*lines, ""]))


def drop_in(*lines: str) -> None:
    """Add lines to the service's unit for the rest of the test."""
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text("\n".join(["[Service]", *lines, ""]))
    systemctl("daemon-reload")


def reset() -> None:
    """Stop all units and remove the configuration of a test."""
    systemctl("stop", PUBLIC_UNIT)
    shutil.rmtree(CONFIGURATION.parent, ignore_errors=True)
    if DROP_IN.exists():
        shutil.rmtree(DROP_IN.parent)
        systemctl("daemon-reload")
    systemctl("reset-failed")


def access(path: str) -> tuple[str, str, str]:
    """Return the mode, owner and group of a file."""
    status = os.stat(path)
    owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    return f"{stat.S_IMODE(status.st_mode):04o}", owner.pw_name, group.gr_name


def connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE)
    connection.connect(path)
    return connection


def allowed(user: str) -> set[str]:
    """Return the sockets that a user can connect to."""
    attempt = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    answers = {
        path: run("/usr/bin/python3", "-c", attempt, path, user=user).stderr
        for path in (PUBLIC, INGEST, CONTROL)
    }
    assert all("PermissionError" in answer for answer in answers.values() if answer), answers
    return {path for path, answer in answers.items() if not answer}


def record() -> bytes:
    """Return a record with a unique message ID."""
    notification = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "nova-compute:host",
        "event_type": "compute.instance.create.end",
        "priority": "INFO",
        "payload": {},
        "timestamp": "2026-01-01 00:00:00.000000",
    }
    return json.dumps(notification).encode() + b"\n"


def relays() -> bool:
    """Return whether a record gets from a producer to a subscriber."""
    with connect(PUBLIC) as subscriber, connect(INGEST) as producer:
        sent = record()
        producer.sendall(sent)
        return subscriber.makefile("rb").readline() == sent


def needs_loopback() -> None:
    """Skip the calling test if systemd could not bring up the container's loopback interface.

    This needs CAP_NET_ADMIN, which a nested container may lack.
    """
    if not int(Path("/sys/class/net/lo/flags").read_text(), 16) & IFF_UP:
        pytest.skip("the loopback interface is down (CAP_NET_ADMIN is missing)")


class Journal:
    """The journal's entries from now on."""

    def __init__(self) -> None:
        self._reader = journal.Reader()
        self._reader.seek_tail()
        self._start: str = self._reader.get_previous()["__CURSOR"]

    def entry(self, **wanted: object) -> Entry:
        """Wait for the next entry with these fields; MESSAGE matches part of the message."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            for entry in self._reader:
                if _matches(entry, wanted):
                    return dict(entry)
            self._reader.wait(end - time.monotonic())
        raise AssertionError(f"not in the journal within {DEADLINE} seconds: {wanted}")

    def text(self) -> str:
        """Return all entries as text."""
        return run("journalctl", "--no-pager", f"--after-cursor={self._start}").stdout


def _matches(entry: Entry, wanted: dict[str, object]) -> bool:
    part = wanted.get("MESSAGE", "")
    fields = {name: value for name, value in wanted.items() if name != "MESSAGE"}
    return str(part) in str(entry.get("MESSAGE")) and all(
        entry.get(name) == value for name, value in fields.items()
    )
