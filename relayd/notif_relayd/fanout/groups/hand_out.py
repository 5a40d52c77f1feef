# SPDX-License-Identifier: Apache-2.0
"""The records that a member of a group gets at a time."""

from __future__ import annotations

import enum
import sys
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from notif_relayd.fanout.chunk import Chunk
from notif_relayd.fanout.cursor import MAX_BUFFERS, MAX_SEND_SIZE
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.groups.missing import Missing
from notif_relayd.fanout.groups.run import Run, append
from notif_relayd.fanout.subscriber import Stream
from notif_relayd.records.filters import View
from notif_relayd.records.framing import split
from notif_relayd.records.selector import Mask, Selector
from notif_relayd.records.validator import RoutingKey, Validator

_validate = Validator(sys.maxsize).validate

NO_VALUES = "", "", ""
"""The routing key of a record that is not valid."""

MAX_EXAMINED = 32
"""Records that are examined for one hand-out: about 0.1 ms if each is in a chunk of its own. A
member that joins examines all waiting records in such parts, and the loop relays records between
them."""

MAX_SECONDS = 0.002
"""Processor time, in seconds, for values that the selector has not remembered, after which no
further record is examined for one hand-out."""

MAX_DECODE_SECONDS = 0.0005
"""The same for decoding records: many members may be ready in one iteration of the loop."""

MAX_REDELIVERED_SIZE = 64 * 1024
"""Bytes of redelivered records after which no further one is added to a hand-out. The records stay
with the member even if its socket takes only a part of them, because their number was announced."""

MAX_DIVIDED = 32
"""Maximum number of records that are divided among members that have nothing to do."""


class _Wanted(enum.Enum):
    """What becomes of a record when it is offered to a member."""

    BY_MEMBER = enum.auto()
    BY_OTHERS = enum.auto()
    """The member does not want it, but another one does."""
    BY_NONE = enum.auto()


class Draft:
    """A hand-out that is being put together.

    Args:
        member: who gets it.
        masks: the bits of the views of all members of the group.
        selector: tells which filters a record passes.
    """

    __slots__ = ("_masks", "_member", "_selector", "data", "examined", "room", "runs", "size")

    def __init__(self, member: Member, masks: Collection[Mask], selector: Selector[Stream]) -> None:
        self._member = member
        self._masks = masks
        self._selector = selector
        self.room = member.room
        """Number of records that may be added."""
        self.data: list[bytes | memoryview] = []
        self.runs: list[Run] = []
        self.size = 0
        self.examined = 0
        """Number of records that were examined."""

    @property
    def full(self) -> bool:
        """Whether no more records should be added."""
        return (
            self.room <= 0
            or self.size >= (MAX_REDELIVERED_SIZE if self.attempts else MAX_SEND_SIZE)
            or len(self.data) >= MAX_BUFFERS
            or self.examined >= MAX_EXAMINED
        )

    @property
    def attempts(self) -> int:
        """Number of earlier attempts of the records, which are handed out with others alike."""
        return self.runs[0].attempts if self.runs else 0

    def accepts(self, run: Run) -> bool:
        """Return whether a run may be handed out together with the others."""
        if run.is_suspect:
            return not (self.runs or self._member.unfinished_count)
        return not self.runs or run.attempts == self.attempts

    def offer(self, chunk: Chunk, run: Run, views: Collection[View]) -> tuple[list[Run], int]:
        """Add those records of a run that the member wants.

        Args:
            chunk: the chunk of the run.
            run: the records.
            views: the views that selected the records.

        Returns:
            The records that only other members want, and the number of records that were decided.
        """
        if self._member.view.is_unfiltered or views == {self._member.view}:
            taken = run.head(min(run.length, self.room))
            self._add(chunk, taken)
            return [], taken.length
        run = run.head(min(run.length, MAX_EXAMINED - self.examined))
        part = bytes(chunk.part(run.first - chunk.first, run.length))
        kept: list[Run] = []
        offered = 0
        for by, some in groupby(self._decide(routing_keys_of(part, run.length), split(part))):
            count = sum(1 for _ in some)
            next_run = run.tail(offered).head(count)
            if by is _Wanted.BY_MEMBER:
                next_run = next_run.head(min(count, self.room))
                self._add(chunk, next_run)
            elif by is _Wanted.BY_OTHERS:
                kept.append(next_run)
            offered += next_run.length
            if self.full:
                break
        return kept, offered

    def _decide(
        self, routing_keys: Iterable[RoutingKey], lines: Iterable[bytes]
    ) -> Iterator[_Wanted]:
        """Yield what becomes of records, until enough of them were examined."""
        selector = self._selector
        until = selector.seconds + MAX_SECONDS
        decode_until = selector.decode_seconds + MAX_DECODE_SECONDS
        for routing_key, line in zip(routing_keys, lines, strict=True):
            passed = selector.passed(routing_key, line)
            self.examined += 1
            if selector.seconds > until or selector.decode_seconds > decode_until:
                self.examined = MAX_EXAMINED
            if self._member.mask.contains(passed):
                yield _Wanted.BY_MEMBER
            elif any(each.contains(passed) for each in self._masks):
                yield _Wanted.BY_OTHERS
            else:
                yield _Wanted.BY_NONE
            if self.examined >= MAX_EXAMINED:
                return

    def _add(self, chunk: Chunk, run: Run) -> None:
        """Add records of one chunk."""
        part = chunk.part(run.first - chunk.first, run.length)
        self.data.append(part)
        self.size += len(part)
        self.room -= run.length
        append(self.runs, run)


class HandOut(NamedTuple):
    """What is to be sent to a member: gap records of the relay, or records of producers."""

    head: bytes
    """Records of the relay, which are sent first."""
    data: list[bytes | memoryview]
    """The records of producers."""
    runs: list[Run]
    """The same records."""
    missing: Missing | None = None
    """What `head` announces as missing, if it is a gap record."""
    is_part: bool = False
    """Whether other members get the other records of the same batch, which may be later ones."""


def routing_keys_of(data: bytes, count: int) -> list[RoutingKey]:
    """Return the routing keys of `count` records.

    A record of a saved state may not be valid by the rules of this version.
    """
    keys = _validate(data).routing_keys
    if len(keys) == count:
        return keys
    return [next(iter(_validate(line).routing_keys), NO_VALUES) for line in split(data)]


def share(takers: int, count: int) -> int:
    """Return how many of the next `count` records a member of a group gets at most.

    A few records are divided among members that have nothing to do. Many are handed out together,
    because that takes less processor time.

    Args:
        takers: number of such members, the one that gets the records included.
        count: number of records.
    """
    return -(-count // takers) if count <= MAX_DIVIDED else count
