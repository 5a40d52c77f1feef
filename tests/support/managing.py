# SPDX-License-Identifier: Apache-2.0
"""A service manager for tests: it does for one relay what systemd does, as far as that matters.

It holds the listening sockets, reads the notification socket, keeps descriptors, and hands all of
them to the next process. What systemd itself makes of it is tested in tests/systemd; here a
restart takes as long as a start of Python, and what has been stored can be looked at.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from support.running import DEADLINE, RunningRelay, kill, wait_readable, wait_until

PASS_ON = """
import fcntl, os, sys
# As systemd does, from 3 on. The copies are made first, above all places, so that no place
# overwrites a descriptor that is still to be copied.
border = sys.argv.index("--")
given = [int(fd) for fd in sys.argv[1:border]]
copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(given)) for fd in given]
for fd in given:
    os.set_inheritable(fd, False)
for place, fd in enumerate(copies, 3):
    os.dup2(fd, place)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[border + 1 :]])
"""


class ManagedRelay(RunningRelay):
    """A relay whose sockets and connections belong to the test."""

    def __init__(self, directory: Path, *arguments: str, room: int = 10_000) -> None:
        self.directory = directory
        self.public = directory / "notifications.sock"
        self.ingest = directory / "ingest.sock"
        self.control = directory / "control.sock"
        self.log = directory / "relay.log"
        self.room = room
        self.stored: dict[str, tuple[int, ...]] = {}
        """The descriptors in the store, by name."""
        self.refused = 0
        """Descriptors that there was no room for."""
        self.messages: list[str] = []
        self._arguments = arguments
        self.listeners = {"public": _listen(self.public), "ingest": _listen(self.ingest)}
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(os.fspath(directory / "notify.sock"))
        self._reading = threading.Event()
        self._reading.set()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start a relay, and give it what there is."""
        self.messages.clear()
        stored = [(name, fd) for name, fds in self.stored.items() for fd in fds]
        names = [*self.listeners, *(name for name, _ in stored)]
        fds = [*(each.fileno() for each in self.listeners.values()), *(fd for _, fd in stored)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PASS_ON, *map(str, fds), "--", *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                env={
                    **os.environ,
                    "NOTIFY_SOCKET": os.fspath(self.directory / "notify.sock"),
                    "LISTEN_FDS": str(len(fds)),
                    "LISTEN_FDNAMES": ":".join(names),
                    "FDSTORE": str(self.room),
                },
            )
        wait_until(lambda: self.told("READY=1") or self.process.poll() is not None, "it is ready")
        assert self.process.poll() is None, self.log.read_text()

    def start_on_demand(self) -> None:
        """Start a relay when somebody connects."""
        wait_readable(*self.listeners.values())
        self.start()

    def restart(self) -> None:
        """What `systemctl restart` does."""
        assert self.stop() == 0
        self.start()

    def stop_for_good(self) -> None:
        """What `systemctl stop` does: nothing is kept for a service that is not to run."""
        assert self.stop() == 0
        while self.stored:
            close_all(self.stored.popitem()[1])

    def change(self, *arguments: str) -> None:
        """Start it with these options from the next time on."""
        self._arguments = arguments

    def kill(self) -> None:
        """What the kernel does when memory runs out, and systemd afterwards."""
        self.process.kill()
        self.process.wait(DEADLINE)
        self.start()

    def pause(self) -> None:
        """Read nothing more of what the relay says."""
        self._reading.clear()

    def go_on(self) -> None:
        """Read again."""
        self._reading.set()

    def told(self, text: str) -> bool:
        """Whether the relay has said this since it was started."""
        return any(text in message for message in self.messages)

    def wait_stored(self, *names: str) -> None:
        """Wait until just these are in the store."""
        wait_until(lambda: sorted(self.stored) == sorted(names), f"{names}, not {self.stored}")

    def close(self) -> None:
        """Kill the relay, end the thread and close all descriptors, also after a failed start."""
        if hasattr(self, "process"):  # a relay was started
            kill(self.process)
        self.go_on()
        self._notify.shutdown(socket.SHUT_RDWR)
        self._reader.join(DEADLINE)
        for fds in self.stored.values():
            close_all(fds)
        self.stored.clear()
        for listener in (*self.listeners.values(), self._notify):
            listener.close()
        if self.log.exists():
            sys.stderr.write(self.log.read_text())

    def _command(self) -> list[str]:
        return [*self.program, "--runtime-dir", os.fspath(self.directory), *self._arguments]

    def _read(self) -> None:
        while True:
            self._reading.wait(DEADLINE)
            data, fds, _, _ = socket.recv_fds(self._notify, 4096, 8)
            if not data:
                return
            message = data.decode()
            fields = dict(line.split("=", 1) for line in message.splitlines())
            count = sum(map(len, self.stored.values()))
            if fields.get("FDSTORE") == "1" and count + len(fds) <= self.room:
                assert fields["FDPOLL"] == "0"
                self.stored[fields["FDNAME"]] = tuple(fds)
                fds = []
            elif fields.get("FDSTORE") == "1":
                self.refused += 1
            elif fields.get("FDSTOREREMOVE") == "1" and fields["FDNAME"] in self.stored:
                close_all(self.stored.pop(fields["FDNAME"]))
            close_all(fds)  # which is all that BARRIER=1 asks for
            self.messages.append(message)


@contextlib.contextmanager
def managed_relay(directory: Path, *arguments: str, room: int = 10_000) -> Iterator[ManagedRelay]:
    relay = ManagedRelay(directory, *arguments, room=room)
    try:
        yield relay
    finally:
        relay.close()


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    listener.listen(1024)
    return listener
