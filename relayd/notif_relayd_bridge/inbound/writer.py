# SPDX-License-Identifier: Apache-2.0
"""The connection to the relay's private socket.

In contrast to the library's sender, which never blocks a service, it drops nothing: what the socket
does not take remains with the caller. It also tells whether the relay has read what was written. A
relay that refuses the connection closes it unread, after the socket has taken some records.
"""

from __future__ import annotations

import logging
import select
import socket
from array import array
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ

from notif_relay.connection import NO_SIGNAL, connect_error
from notif_relay.refusal import MAX_ANSWER, sentence_in
from notif_relayd.escaping import printable

LOG = logging.getLogger(__name__)

MIN_BACKOFF = 0.1
"""Pause between the first two attempts to connect, in seconds; it doubles with each attempt."""

MAX_BACKOFF = 1.0
"""Maximum pause between two attempts to connect, in seconds. An attempt on this host is cheap."""


class ConnectionLostError(Exception):
    """The connection to the relay has ended."""


class Writer:
    """A connection to the relay, made again when there is something to write.

    Args:
        path: path of the private socket.
        poll: the descriptors for which the caller waits.
        clock: returns the time in seconds, which does not go back.
    """

    def __init__(self, path: str, poll: select.poll, clock: Callable[[], float]) -> None:
        self.retry_at = clock()
        """Time from which an attempt to connect may be made."""
        self._path = path
        self._poll = poll
        self._clock = clock
        self._socket: socket.socket | None = None
        self._unread = array("i", [0])  # ioctl(2) result
        self._backoff = MIN_BACKOFF
        self._is_logged = False
        """Whether a failure was logged since the relay has read something."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._socket is not None

    def connect(self) -> bool:
        """Connect unless the last attempt is recent; return whether there is a connection."""
        if self._socket is not None:
            return True
        now = self._clock()
        if now < self.retry_at:
            return False
        self.retry_at = now + self._backoff
        self._backoff = min(2 * self._backoff, MAX_BACKOFF)
        try:
            sock = _connected_socket(self._path)
        except OSError as error:  # Also if there is no descriptor for it.
            self._log_failure(str(connect_error(self._path, error)))
            return False
        self._socket = sock
        self._poll.register(sock, 0)  # A hang-up is reported in any case.
        return True

    def write(self, data: bytes) -> int:
        """Return how many bytes the socket has taken; poll(2) reports when it takes the others.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        sock = self._connection()
        try:
            sent = sock.send(data, NO_SIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose()
            raise ConnectionLostError from error
        self._poll.modify(sock, select.POLLOUT if sent < len(data) else 0)
        return sent

    def has_read(self) -> bool:
        """Return whether the relay has read everything.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        sock = self._connection()
        # The end is looked up afterwards: what the relay did not read is freed with the connection.
        ioctl(sock, TIOCOUTQ, self._unread)
        self.check()
        if self._unread[0]:
            return False
        self._backoff = MIN_BACKOFF
        if self._is_logged:
            self._is_logged = False
            LOG.info("connected to the relay")
        return True

    def check(self) -> None:
        """Find out whether the relay has closed the connection.

        Raises:
            ConnectionLostError: it has.
        """
        if self._socket is None:
            return
        poll = select.poll()
        poll.register(self._socket, 0)
        if poll.poll(0):
            self._lose()
            raise ConnectionLostError

    def close(self) -> None:
        """Close the connection; the relay can still read what was written."""
        if self._socket is not None:
            self._poll.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _connection(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionLostError
        return self._socket

    def _lose(self) -> None:
        reason = "the connection has ended"
        if sentence := self._refusal():
            reason = f"the relay at {self._path} refuses this bridge: {sentence}"
        self.close()
        self._log_failure(reason)

    def _refusal(self) -> str:
        """Return the sentence with which the relay has refused the connection; empty if none."""
        if self._socket is None:
            return ""
        try:
            return sentence_in(self._socket.recv(MAX_ANSWER))
        except OSError:
            return ""

    def _log_failure(self, reason: str) -> None:
        if not self._is_logged:
            self._is_logged = True
            LOG.warning("waiting for the relay: %s", printable(reason))


def _connected_socket(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock
