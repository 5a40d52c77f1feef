# SPDX-License-Identifier: Apache-2.0
"""Accepts connections from a listening socket; all three sockets have one.

Two things can go wrong and must not affect other peers:

- A connection may not be accepted. The peer is told why, if its socket has a way to tell, and the
  connection is closed.
- The process may be out of descriptors. The connection then stays in the kernel's queue and keeps
  the listening socket readable, so the socket is not watched for a while.
"""

import errno
import socket
import time
from collections.abc import Callable
from typing import Protocol

from notif_relayd.net import ancillary
from notif_relayd.net.loop import READ, Loop
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.peer import LazyPeer, Peer, peer_of, uid_of

MAX_ACCEPTS = 16
"""Connections accepted in one iteration of the loop: 1 ms, as each takes 60 µs."""

PAUSE = 1.0
"""Seconds until the next attempt, when there was no descriptor or no memory left."""

BREAK = 0.004
"""Seconds from one refused connection to the next, for each socket.

Accepting goes on at the same moments for all sockets, so that when several are flooded, one record
waits for all their refusals, and in total less than one record in a hundred does. A queue of 2048
connections that are all refused takes 8 s.
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
    """One listening socket.

    Args:
        loop: calls the door when somebody knocks.
        log: where it complains.
        listener: the listening socket; the door makes it non-blocking.
        admission: decides which connections are accepted.
        welcome: gets every connection, non-blocking, with the peer's identity.
        refuse: gets the connections that may not come in, and why; they are closed afterwards.
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
        """Take nobody any more; the listening socket itself belongs to whoever opened it."""
        self._closed = True
        self._unwatch()

    def _serve(self, _events: int = 0) -> None:
        """Accept connections, and watch the socket unless accepting has to pause.

        After a pause the socket is not watched first: that would take another iteration of the
        loop, and in a flood connections are waiting anyway.
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
        """Accept at most `MAX_ACCEPTS` connections; return the seconds to pause, mostly none."""
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
            if not ancillary.protect(connection):
                ancillary.discard(connection)
                continue
            # Who comes in a flood is not looked at any closer.
            reason = self._admission.take_token(uid_of(connection))
            if reason is None:
                peer = peer_of(connection)
                reason = self._admission.refusal(peer)
            if reason is not None:
                self._send_away(connection, reason)
                return BREAK - time.monotonic() % BREAK
            try:
                self._welcome(connection, peer)
            except OSError as error:
                # Nobody could be told what happens to it.
                self._admission.leave(peer)
                ancillary.close(connection)
                return self._exhausted(error)
        return 0.0

    def _send_away(self, connection: socket.socket, reason: str) -> None:
        self._log.warning(
            "connection to %s refused: %s: %s",
            self._path,
            LazyPeer(connection),
            reason,
        )
        self._refuse(connection, reason)
        ancillary.close(connection)

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
        """Log that there are no descriptors or no memory; return the seconds to pause."""
        self._log.warning(
            "no connection can be accepted on %s for now: %s",
            self._path,
            error.strerror,
        )
        return PAUSE
