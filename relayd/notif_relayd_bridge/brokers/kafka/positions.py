# SPDX-License-Identifier: Apache-2.0
"""Which messages of which partitions are unacknowledged, and what can be committed.

The bridge acknowledges messages in the order in which it got them, whichever partition they are
from. Kafka stores one number for each partition: the offset of the first message that a consumer
has not finished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""


class _Message(NamedTuple):
    partition: Partition
    offset: int
    size: int


class Positions:
    """The positions of one member of a group of consumers."""

    def __init__(self) -> None:
        self.assigned: set[Partition] = set()
        self.size = 0
        """Size of the unacknowledged messages in bytes."""
        self._unacknowledged: deque[_Message] = deque()
        self._finished: dict[Partition, int] = {}
        self._rewind: dict[Partition, int] = {}

    def __len__(self) -> int:
        """Return the number of unacknowledged messages."""
        return len(self._unacknowledged)

    @property
    def can_commit(self) -> bool:
        """Whether messages are finished whose position is not committed."""
        return bool(self._finished)

    def received(self, partition: Partition, offset: int, size: int) -> None:
        """Note a message that the bridge gets."""
        self._unacknowledged.append(_Message(partition, offset, size))
        self.size += size

    def skipped(self, partition: Partition, offset: int) -> None:
        """Note a message that the client has read, but the bridge does not get now."""
        self._rewind.setdefault(partition, offset)

    def acknowledged(self, count: int) -> None:
        """Finish the oldest unacknowledged messages."""
        for _ in range(min(count, len(self._unacknowledged))):
            message = self._unacknowledged.popleft()
            self.size -= message.size
            self._finished[message.partition] = message.offset + 1

    def forget(self) -> None:
        """Forget the unacknowledged messages; the client must read them again."""
        for message in self._unacknowledged:
            if message.partition in self.assigned:
                self._rewind.setdefault(message.partition, message.offset)
        self._unacknowledged.clear()
        self.size = 0

    def take_finished(self) -> dict[Partition, int]:
        """Return the offsets to commit, and regard them as committed."""
        finished, self._finished = self._finished, {}
        return finished

    def restore_finished(self, offsets: dict[Partition, int]) -> None:
        """Note offsets whose commit has failed, unless there are newer ones."""
        for partition, offset in offsets.items():
            if partition in self.assigned:
                self._finished.setdefault(partition, offset)

    def take_rewind(self) -> dict[Partition, int]:
        """Return the offsets from which the client must read again."""
        rewind, self._rewind = self._rewind, {}
        return rewind

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Note partitions that the client reads from now on, from their committed offset."""
        self.assigned.update(partitions)

    def revoke(self, partitions: Iterable[Partition]) -> bool:
        """Note partitions that the client does not read any more.

        Returns:
            Whether a message of them is unacknowledged. ``forget`` must follow then: another
            consumer gets this message, and the bridge cannot take it out of the order.
        """
        revoked = set(partitions)
        self.assigned -= revoked
        for partition in revoked:
            self._finished.pop(partition, None)
            self._rewind.pop(partition, None)
        return any(message.partition in revoked for message in self._unacknowledged)
