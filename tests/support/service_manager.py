# SPDX-License-Identifier: Apache-2.0
"""A service manager for tests: the part of systemd that a relay with socket activation uses.

It holds the listening sockets, reads the notification socket, keeps the descriptor store, and
passes all descriptors to the next process. A restart takes only as long as a start of Python, and a
test can inspect the store. tests/systemd tests the same with systemd itself.
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

from support.relay import RunningRelay
from support.waiting import TIMEOUT, kill, wait_readable, wait_until

PASS_DESCRIPTORS = """
import fcntl, os, sys
# Passed descriptors have the numbers from 3 on, as with systemd. They are copied to higher numbers
# first, so that dup2 overwrites none that is still needed.
separator = sys.argv.index("--")
given = [int(fd) for fd in sys.argv[1:separator]]
copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(given)) for fd in given]
for fd in given:
    os.set_inheritable(fd, False)
for number, fd in enumerate(copies, 3):
    os.dup2(fd, number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[separator + 1 :]])
"""


class ManagedRelay(RunningRelay):
    """A relay whose listening sockets and descriptor store belong to the test.

    Args:
        directory: Runtime directory of the relay.
        arguments: Options of the daemon.
        fdstore_max: Maximum number of stored descriptors, as `FileDescriptorStoreMax=`.
    """

    def __init__(self, directory: Path, *arguments: str, fdstore_max: int = 10_000) -> None:
        self.directory = directory
        self.public = directory / "notifications.sock"
        self.ingest = directory / "ingest.sock"
        self.control = directory / "control.sock"
        self.log = directory / "relay.log"
        self.fdstore_max = fdstore_max
        self.stored: dict[str, tuple[int, ...]] = {}
        """The descriptors in the store, by name."""
        self.refused = 0
        """Number of descriptors that did not fit into the store."""
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
        """Start a relay with the listening sockets and all stored descriptors."""
        self.messages.clear()
        stored = [(name, fd) for name, fds in self.stored.items() for fd in fds]
        # A key such as "more public" is for another socket with the same name.
        names = [name.rpartition(" ")[2] for name in self.listeners]
        names += [name for name, _ in stored]
        fds = [*(each.fileno() for each in self.listeners.values()), *(fd for _, fd in stored)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PASS_DESCRIPTORS, *map(str, fds), "--", *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                env={
                    **os.environ,
                    "NOTIFY_SOCKET": os.fspath(self.directory / "notify.sock"),
                    "LISTEN_FDS": str(len(fds)),
                    "LISTEN_FDNAMES": ":".join(names),
                    "FDSTORE": str(self.fdstore_max),
                },
            )
        wait_until(
            lambda: self.has_notified("READY=1") or self.process.poll() is not None,
            "the relay is ready",
        )
        assert self.process.poll() is None, self.log.read_text()

    def start_on_demand(self) -> None:
        """Wait for a connection, then start a relay."""
        wait_readable(*self.listeners.values())
        self.start()

    def restart(self) -> None:
        """Stop the relay and start it again, as `systemctl restart` does."""
        assert self.stop() == 0
        self.start()

    def stop_and_clear(self) -> None:
        """Stop the relay and close the stored descriptors, as `systemctl stop` does."""
        assert self.stop() == 0
        while self.stored:
            close_all(self.stored.popitem()[1])

    def set_arguments(self, *arguments: str) -> None:
        """Set the options of the daemon for the next start."""
        self._arguments = arguments

    def kill(self) -> None:
        """Kill the relay and start it again, as after an out-of-memory kill."""
        self.process.kill()
        self.process.wait(TIMEOUT)
        self.start()

    def pause_reading(self) -> None:
        """Stop reading the notification socket."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Read the notification socket again."""
        self._reading.set()

    def has_notified(self, text: str) -> bool:
        """Return whether a notification since the start of the relay contains `text`."""
        return any(text in message for message in self.messages)

    def wait_stored(self, *names: str) -> None:
        """Wait until the store contains exactly these names."""
        wait_until(lambda: sorted(self.stored) == sorted(names), f"{names}, not {self.stored}")

    def close(self) -> None:
        """Kill the relay, end the thread and close all descriptors; works after a failed start."""
        if hasattr(self, "process"):  # a relay was started
            kill(self.process)
        self.resume_reading()
        self._notify.shutdown(socket.SHUT_RDWR)
        self._reader.join(TIMEOUT)
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
            self._reading.wait(TIMEOUT)
            data, fds, _, _ = socket.recv_fds(self._notify, 4096, 8)
            if not data:
                return
            message = data.decode()
            fields = dict(line.split("=", 1) for line in message.splitlines())
            count = sum(map(len, self.stored.values()))
            if fields.get("FDSTORE") == "1" and count + len(fds) <= self.fdstore_max:
                assert fields["FDPOLL"] == "0"
                self.stored[fields["FDNAME"]] = tuple(fds)
                fds = []
            elif fields.get("FDSTORE") == "1":
                self.refused += 1
            elif fields.get("FDSTOREREMOVE") == "1" and fields["FDNAME"] in self.stored:
                close_all(self.stored.pop(fields["FDNAME"]))
            close_all(fds)  # For BARRIER=1 there is nothing else to do.
            self.messages.append(message)


@contextlib.contextmanager
def managed_relay(
    directory: Path, *arguments: str, fdstore_max: int = 10_000
) -> Iterator[ManagedRelay]:
    """Run a relay that is ready, under such a service manager, until the end of the block."""
    relay = ManagedRelay(directory, *arguments, fdstore_max=fdstore_max)
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
