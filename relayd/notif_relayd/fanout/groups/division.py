# SPDX-License-Identifier: Apache-2.0
"""Divides a batch among the members of a group, by the filters that each record passes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from notif_relayd.fanout.groups.hand_out import HandOut, share
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.groups.run import Run, append
from notif_relayd.fanout.subscriber import Stream
from notif_relayd.records.framing import split
from notif_relayd.records.selector import Mask, Selector
from notif_relayd.records.validator import RoutingKey


class Batch:
    """Records that are published, and the filters that each of them passes.

    Args:
        data: the records.
        routing_keys: one for each record.
    """

    __slots__ = ("_passed", "data", "routing_keys")

    def __init__(self, data: bytes, routing_keys: Sequence[RoutingKey]) -> None:
        self.data = data
        self.routing_keys = routing_keys
        self._passed: list[int] = []

    def __len__(self) -> int:
        return len(self.routing_keys)

    def passed(self, selector: Selector[Stream]) -> Sequence[int]:
        """Return for each record the filters that it passes; computed when they are needed."""
        if not self._passed:
            self._passed = [*map(selector.passed, self.routing_keys, split(self.data))]
        return self._passed


class Division:
    """The parts of a batch.

    Args:
        first: the first record of the batch.
        passed: for each record the filters that it passes.
        candidates: the members that may get records now.
        masks: the bits of the views of all members.
    """

    def __init__(
        self,
        first: Run,
        passed: Sequence[int],
        candidates: Sequence[Member],
        masks: Collection[Mask],
    ) -> None:
        self.waiting: list[Run] = []
        """The records that only other members want, or for which the candidates have no room."""
        self._first = first
        self._passed = passed
        self._parts: dict[Member, list[int]] = {}
        """Indexes of the records of each candidate that gets any."""
        few = share(max(1, sum(each.is_idle for each in candidates)), len(passed))
        rooms = {each: min(each.room, few) if each.is_idle else each.room for each in candidates}
        takers: dict[int, list[Member]] = {}
        for index, bits in enumerate(passed):
            if bits not in takers:
                takers[bits] = [each for each in candidates if each.mask.contains(bits)]
            some = takers[bits]
            while some and rooms[some[0]] <= len(self._parts.get(some[0], ())):
                some.pop(0)
            if some:
                self._parts.setdefault(some[0], []).append(index)
            elif any(each.contains(bits) for each in masks):
                append(self.waiting, self._run(index))

    @property
    def waiting_passed(self) -> set[int]:
        """The sets of filters that the waiting records pass."""
        start = self._first.first
        return {
            self._passed[seq - start] for run in self.waiting for seq in range(run.first, run.end)
        }

    def hand_outs(self, data: bytes) -> Iterator[tuple[Member, HandOut]]:
        """Yield what the members get; each of them owes it until `Group.note_sent` is called.

        Args:
            data: the records of the batch.
        """
        lines = list(split(data))
        for member, part in self._parts.items():
            for index in part:
                append(member.unsent, self._run(index))
            some = b"".join([lines[index] for index in part])
            yield member, HandOut(b"", [some], member.unsent, is_part=len(self._parts) > 1)

    def _run(self, index: int) -> Run:
        return self._first._replace(first=self._first.first + index)
