# SPDX-License-Identifier: Apache-2.0
"""What a process finds in the service manager's descriptor store when it starts."""

import contextlib
import logging
import mmap
import os
import re
import select
import socket
import stat
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from notif_relayd.handover.errors import StateError
from notif_relayd.handover.state import State, decode
from notif_relayd.net import ancillary
from notif_relayd.net.passed import is_unix_stream
from notif_relayd.systemd.fdstore import PRODUCER, STATE, SUBSCRIBER, UNFINISHED

LOG = logging.getLogger(__name__)

_NAME = re.compile(rf"(?P<kind>[{PRODUCER}{SUBSCRIBER}])(?P<number>[1-9][0-9]{{0,18}})")
"""Name of the descriptors of a connection."""


@dataclass(slots=True)
class Inherited:
    """Descriptors and state from the store."""

    producers: dict[int, socket.socket] = field(default_factory=dict)
    """By the number of the connection."""
    subscribers: dict[int, socket.socket] = field(default_factory=dict)
    """By the number of the connection."""
    requests: dict[int, int] = field(default_factory=dict)
    """Memfds with the last request of each subscriber, by the number of the connection."""
    state: State | None = None
    """`None` if the previous process was killed or its state cannot be used."""
    names: list[str] = field(default_factory=list)
    """Names of the descriptors in the store; one entry for each descriptor."""

    @property
    def next_id(self) -> int:
        """The next connection number; it is greater than that of every known connection."""
        if self.state is not None:
            return self.state.next_id
        return 1 + max([0, *self.producers, *self.subscribers])


def inherit(passed: Iterable[tuple[str, int]]) -> Inherited:
    """Sort the descriptors that systemd passed; log and close those that cannot be used.

    Args:
        passed: name and number of each descriptor, except for listening sockets.
    """
    inherited = Inherited()
    states = []
    for name, fd in passed:
        known = _NAME.fullmatch(name)
        if name == STATE or known:
            inherited.names.append(name)
        if name == STATE:
            states.append(fd)
        elif known is None:
            LOG.warning("systemd passed a descriptor named %r, which is not used", name)
            os.close(fd)
        elif not _add(inherited, known["kind"], int(known["number"]), fd):
            LOG.warning("the descriptor %r from the store is not a connection", name)
            os.close(fd)
    _close_unpaired(inherited)
    _close_hung_up(inherited)
    try:
        if len(states) > 1:
            raise StateError(f"the store holds {len(states)} states")
        inherited.state = _decoded(states[0], inherited.subscribers) if states else None
    except StateError as error:
        LOG.error("cannot restore the saved state: %s", error)
    for fd in states:
        os.close(fd)
    return inherited


def _add(inherited: Inherited, kind: str, number: int, fd: int) -> bool:
    """Add one descriptor of a connection; return `False` if it is of the wrong type."""
    if is_unix_stream(fd, listening=False):
        connections = inherited.producers if kind == PRODUCER else inherited.subscribers
        connections[number] = socket.socket(fileno=fd)
        connections[number].setblocking(False)
        return True
    if kind == SUBSCRIBER and stat.S_ISREG(os.fstat(fd).st_mode):
        if os.pread(fd, 1, 0) == UNFINISHED:  # the previous process was killed while it wrote
            os.close(fd)
        else:
            os.set_inheritable(fd, False)
            inherited.requests[number] = fd
        return True
    return False


def _close_unpaired(inherited: Inherited) -> None:
    """Close subscribers without a request memfd, and memfds without a subscriber.

    Such a subscriber may have had a filter. Without it, the relay would send records that the
    subscriber did not request.
    """
    for number in inherited.subscribers.keys() - inherited.requests.keys():
        LOG.warning("connection ended: subscriber %d: its filter is not in the store", number)
        connection = inherited.subscribers.pop(number)
        with contextlib.suppress(OSError):  # The peer may have hung up.
            connection.shutdown(socket.SHUT_RDWR)
        ancillary.close(connection)
    for number in inherited.requests.keys() - inherited.subscribers.keys():
        os.close(inherited.requests.pop(number))


def _close_hung_up(inherited: Inherited) -> None:
    """Close subscribers that have hung up, so that nothing is restored for them.

    Producers that have hung up are kept, because their sockets may hold unread records.
    """
    poll = select.poll()
    numbers = {each.fileno(): number for number, each in inherited.subscribers.items()}
    for fd in numbers:
        poll.register(fd, 0)
    for fd, _ in poll.poll(0):
        ancillary.close(inherited.subscribers.pop(numbers[fd]))
        os.close(inherited.requests.pop(numbers[fd]))


def _decoded(fd: int, subscribers: Container[int]) -> State:
    """Decode the state in a memfd; the memfd is mapped, not copied.

    Raises:
        StateError: the state cannot be used.
    """
    try:
        content = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise StateError(f"cannot be read: {error}") from None
    return decode(content, subscribers)
