# SPDX-License-Identifier: Apache-2.0
"""Accepts connections from a listening socket. Each of the three sockets has an acceptor.

A refused connection is closed, after an error record if the peer can receive one. If the process
has no descriptor left, a connection stays in the kernel's queue and keeps the listening socket
readable; the acceptor then pauses, so that the loop does not spin.
"""

import errno
import socket
from collections.abc import Callable
from typing import Protocol

from notif_relayd.net import ancillary
from notif_relayd.net.loop import READ, Loop
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.peer import LazyPeer, Peer, peer_of, uid_of

MAX_ACCEPTS = 16
"""Maximum number of connections accepted in one iteration of the loop. 16 connections take 1 ms."""

EXHAUSTED_BACKOFF = 1.0
"""Seconds until the next attempt after the process had no descriptor or no memory left."""

REFUSAL_INTERVAL = 0.004
"""Interval, in seconds, between two refused connections of a socket.

All acceptors continue at multiples of the interval. If several sockets are flooded, their refusals
therefore delay the same record, and less than one record in a hundred is delayed at all. To refuse
a queue of 2048 connections takes 8 s.
"""

_BUSY = OSError(errno.EBUSY, "file descriptors that peers have passed are being closed")


class Admission(Protocol):
    """Decides which connections are accepted, and counts them."""

    def take_token(self, uid: int, /) -> str | None:
        """Take one token from the user's rate limit.

        Returns:
            The reason for a refusal if no token is left; `None` otherwise.
        """

    def refusal(self, peer: Peer, /) -> str | None:
        """Admit a peer and count its connection, unless it is refused.

        Returns:
            The reason for a refusal; `None` if the peer is admitted.
        """

    def leave(self, peer: Peer, /) -> None:
        """Stop counting a connection that `refusal` admitted."""


class Acceptor:
    """Accepts the connections of one listening socket.

    Args:
        loop: the event loop.
        log: for warnings about refused connections.
        listener: the listening socket, which becomes non-blocking.
        admission: decides which connections are accepted.
        welcome: called with each accepted connection, non-blocking, and its peer. If it raises
            `OSError`, the connection is closed.
        refuse: called with each refused connection and the reason, before the connection is closed.
    """

    def __init__(
        self,
        loop: Loop,
        log: RateLimitedLog,
        listener: socket.socket,
        admission: Admission,
        welcome: Callable[[socket.socket, Peer], None],
        refuse: Callable[[socket.socket, str], None],
    ) -> None:
        self._loop = loop
        self._kernel = loop.kernel
        self._log = log
        self._listener = listener
        self._path = listener.getsockname()
        self._admission = admission
        self._welcome = welcome
        self._refuse = refuse
        self._watching = False
        self._closed = False
        listener.setblocking(False)
        self._watch()

    def close(self) -> None:
        """Stop accepting; the caller closes the listening socket."""
        self._closed = True
        self._unwatch()

    def _serve(self, _events: int = 0) -> None:
        """Accept connections; then watch the socket, or pause.

        After a pause, connections are accepted before the socket is watched again, because in a
        flood there are some, and watching first would take a further iteration.
        """
        if self._closed:
            return
        pause = self._accept()
        if pause:
            self._unwatch()
            self._loop.call_in(pause, self._serve)
        elif not self._watching:
            self._watch()

    def _accept(self) -> float:
        """Accept at most `MAX_ACCEPTS` connections; return the seconds to pause, 0 for no pause."""
        for _ in range(MAX_ACCEPTS):
            if not ancillary.may_accept():
                return self._exhausted(_BUSY)
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                continue
            except OSError as error:
                return self._exhausted(error)
            connection.setblocking(False)
            if not self._kernel.protect(connection):
                ancillary.discard(connection)
                continue
            # In a flood only the user ID is read, which takes a tenth of the time of `peer_of`.
            reason = self._admission.take_token(uid_of(connection))
            if reason is None:
                peer = peer_of(connection)
                reason = self._admission.refusal(peer)
            if reason is not None:
                self._close_refused(connection, reason)
                return REFUSAL_INTERVAL - self._kernel.monotonic() % REFUSAL_INTERVAL
            try:
                self._welcome(connection, peer)
            except OSError as error:
                # The loop cannot watch a further descriptor.
                self._admission.leave(peer)
                self._kernel.close_socket(connection)
                return self._exhausted(error)
        return 0.0

    def _close_refused(self, connection: socket.socket, reason: str) -> None:
        self._log.warning(
            "connection to %s refused: %s: %s",
            self._path,
            LazyPeer(connection),
            reason,
            subject=(uid_of(connection), (self._path, reason)),
        )
        self._refuse(connection, reason)
        self._kernel.close_socket(connection)

    def _watch(self) -> None:
        try:
            self._loop.watch(self._listener.fileno(), READ, self._serve)
        except OSError as error:
            self._loop.call_in(self._exhausted(error), self._serve)
        else:
            self._watching = True

    def _unwatch(self) -> None:
        if self._watching:
            self._loop.forget(self._listener.fileno())
            self._watching = False

    def _exhausted(self, error: OSError) -> float:
        """Log that no descriptor or no memory is left; return the seconds to pause."""
        self._log.warning(
            "cannot accept connections on %s for now: %s",
            self._path,
            error.strerror,
        )
        return EXHAUSTED_BACKOFF
