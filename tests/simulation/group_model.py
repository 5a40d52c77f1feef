# SPDX-License-Identifier: Apache-2.0
"""The model of groups: which records a member may receive, and what became of every record.

The model does not predict which member gets a record. It checks that a record goes to one member,
unless the relay says that it went to another one before, and that at the end each record of a
group was finished, waits, or is among the missing ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from simulation.vocabulary import MATCHING, Wanted, check

GroupKey = tuple[int, str]

MAX_DELIVERIES = 3

HOLDS = (0, 0, 0.5, 10)
"""Seconds for which members let the group keep its place."""

RELAY_GAP = -1
"""In place of the index of a record: a gap record of the relay."""

TOLERANCE = 1e-6
"""Seconds around the end of a hold at which the group may exist or not."""


class State(Enum):
    """What is known about a member."""

    REQUESTED = auto()
    """The relay has read its request."""
    JOINED = auto()
    """The relay has sent the answer."""
    LEAVING = auto()
    """The relay has read another request, so the member may have left."""
    LEFT = auto()


@dataclass(eq=False)
class Part:
    """A subscriber's part in a group."""

    group: Group
    wanted: Wanted
    since: int
    """Length of the sequence when the relay had sent the answer, or read the request."""
    state: State = State.REQUESTED
    was_member: bool = False
    """Whether the relay has sent the answer."""
    until: int | None = None
    """Length of the sequence when it had left and the group went on without it."""
    got: list[int] = field(default_factory=list)
    """Indexes of the records that it received, with a window; `RELAY_GAP` for each gap record of
    the relay."""
    gaps: dict[int, int] = field(default_factory=dict)
    """Numbers of missing records in these gap records, by their place in `got`."""
    done: int = 0
    """Number of records that it has finished."""
    announced: int = 0
    """Records that the last marker announces and that were not received yet."""
    last: int = -1
    """Index of the last record that was not marked."""
    unsure: bool = False
    """Whether the relay may not have handled a "done" yet, or never will."""

    @property
    def matching(self) -> set[int]:
        """Templates of the records that it may get."""
        return MATCHING[self.wanted.filter]

    @property
    def outstanding(self) -> set[int]:
        """Records that it has and has not finished."""
        return set(self.got[self.done :]) - {RELAY_GAP}

    @property
    def unannounced(self) -> list[int]:
        """What the gap records announce that it has and has not finished."""
        return [number for place, number in self.gaps.items() if place >= self.done]


@dataclass
class History:
    """What members of all groups with the same name received."""

    times: Counter[int] = field(default_factory=Counter)
    """How often each record was received."""
    partly: int = 0
    """Number of records of which a member received only a part, at most."""


@dataclass(eq=False)
class Group:
    """A group, from its first request on."""

    history: History
    started: int
    """Index of the first record that it may have."""
    parts: list[Part] = field(default_factory=list)
    exact: bool = True
    """Whether the relay has had the same group all the time."""
    held_until: float | None = None
    announced: int = 0
    """Missing records that members were told of, apart from those that left before they had
    finished the gap record."""
    failed_gaps: int = 0
    """Number of times that a member left without finishing a gap record of the relay."""
    redelivered: int = 0
    partly: bool = False
    """Whether a member may have left with a part of a line."""
    unsure: bool = False
    """Whether a member has left whose gap records may be finished or not."""
    finished: set[int] = field(default_factory=set)
    """Records that no other member may get."""

    @property
    def members(self) -> list[Part]:
        """Those that are members now, or may be."""
        return [each for each in self.parts if each.state is not State.LEFT]

    @property
    def joined(self) -> list[Part]:
        """Those that are certainly members."""
        return [each for each in self.parts if each.state is State.JOINED]


class Groups:
    """The groups of a simulation.

    Args:
        sequence: for each record, the index of its template.
        now: returns the time.
    """

    def __init__(self, sequence: list[int], now: Callable[[], float]) -> None:
        self._sequence = sequence
        self._now = now
        self._groups: dict[GroupKey, Group] = {}
        self._histories: dict[GroupKey, History] = {}

    def request(self, uid: int, wanted: Wanted, earliest: int) -> Part:
        """The relay has read a request for a group.

        Args:
            uid: the user.
            wanted: the request.
            earliest: index of the first record that a new group may have.
        """
        assert wanted.group is not None
        key = uid, wanted.group
        group = self._groups.get(key)
        if group is not None and not group.members and self._is_over(group):
            group = None
        if group is None:
            history = self._histories.setdefault(key, History())
            group = self._groups[key] = Group(history, earliest)
        part = Part(group, wanted, len(self._sequence))
        group.parts.append(part)
        return part

    def join(self, part: Part) -> None:
        """The relay has sent the answer to a member."""
        group = part.group
        part.state, part.was_member, part.since = State.JOINED, True, len(self._sequence)
        if group.held_until is not None:
            group.exact &= self._now() < group.held_until - TOLERANCE
            group.held_until = None
            for each in group.parts:
                if each.state is State.LEFT and each.until is None:
                    each.until = len(self._sequence)

    def start_leaving(self, part: Part) -> None:
        """The relay has read another request of a member."""
        if part.state is State.JOINED:
            part.state = State.LEAVING
            part.group.history.partly += 1
            self._check_alive(part.group)

    def leave(self, part: Part, *, partly: bool) -> None:
        """A member has left.

        Args:
            part: the member; it may have left before.
            partly: whether it may have received a part of a line.
        """
        if part.state is State.LEFT:
            return
        group, was_joined = part.group, part.state is State.JOINED
        part.state = State.LEFT
        group.announced -= sum(part.unannounced)
        group.failed_gaps += len(part.unannounced)
        group.unsure |= part.unsure and bool(part.gaps)
        if partly:
            group.history.partly += 1
            group.partly = True
        if group.members:
            part.until = len(self._sequence)
            self._check_alive(group)
            return
        group.exact &= was_joined
        # If the order is not known, another request may be the one that holds the group.
        hold = part.wanted.hold if group.exact else max(HOLDS)
        if hold:
            group.held_until = self._now() + hold
        else:
            self._groups = {k: each for k, each in self._groups.items() if each is not group}

    def leave_together(self, parts: Collection[Part]) -> None:
        """Members have left without an order."""
        for part in parts:
            part.group.exact &= len([each for each in parts if each.group is part.group]) == 1
            self.leave(part, partly=True)

    def forget(self) -> None:
        """The relay was killed, and its groups with it."""
        for group in self._groups.values():
            group.history.partly += len(group.members)
            for part in group.members:
                part.state = State.LEFT
        self._groups = {}

    # What members receive.

    def receive(self, part: Part, index: int, line: bytes, *, begun_before: bool) -> None:
        """A member has received a record.

        Args:
            part: the member.
            index: the index of the record in the sequence.
            line: the record.
            begun_before: whether it received the beginning before it began to leave.
        """
        group, history = part.group, part.group.history
        template = self._sequence[index]
        check(template in part.matching, f"{line!r} does not match the filter of {part.wanted}")
        check(index >= group.started, f"{line!r} is older than the group")
        begun_before |= part.state is State.LEAVING and part.announced > 0
        check(part.state is not State.LEAVING or begun_before, f"{line!r} precedes an answer")
        if not begun_before:
            check(index not in group.finished, f"{line!r} was finished by another member")
        if part.announced:
            part.announced -= 1
            if not (history.times[index] or self._may_be_divided(group, part, index)):
                history.partly -= 1
            check(history.partly >= 0, f"{line!r} is marked and was never sent before")
        elif not begun_before:
            check(not history.times[index], f"{line!r} was sent before and is not marked")
            check(index > part.last, f"{line!r} is out of order")
            part.last = index
        history.times[index] += 1
        check(history.times[index] <= MAX_DELIVERIES + history.partly, f"{line!r}: too many times")
        if part.wanted.window is None:
            group.finished.add(index)
        else:
            self._append(part, index)

    def _append(self, part: Part, index: int) -> None:
        """A member with a window has received a record that it has to finish."""
        part.got.append(index)
        if part.state is State.JOINED and part.wanted.window is not None:
            unfinished = len(part.got) - part.done
            check(unfinished <= part.wanted.window, "more records than the window")

    def receive_marker(self, part: Part, payload: dict[str, Any]) -> None:
        """A member has received the number of redelivered records that follow."""
        check(part.announced == 0 and payload["records"] > 0, "two markers")
        part.announced = payload["records"]
        part.group.redelivered += part.announced

    def receive_gap(self, part: Part, payload: dict[str, Any]) -> None:
        """A member has received a gap record of the relay."""
        check(payload["reason"] in ("slow_subscriber", "undeliverable"), payload)
        check(payload["dropped"] > 0, "a gap record of 0 records")
        check(part.announced == 0, "a gap record among redelivered records")
        part.group.announced += payload["dropped"]
        if part.wanted.window is not None:
            part.gaps[len(part.got)] = payload["dropped"]
            self._append(part, RELAY_GAP)

    def finish(self, part: Part, count: int | None) -> None:
        """The relay has read a "done" of a member; the number is `None` if it may be refused."""
        if count is None:
            part.unsure = True
        else:
            part.done = count

    # Checks.

    def check_finished(self, figures: Iterable[dict[str, Any]]) -> None:
        """Compare the figures of the relay's groups, at the end of a schedule."""
        by_key = {(each["uid"], each["group"]): each for each in figures}
        expected = {key for key, each in self._groups.items() if each.members}
        check(by_key.keys() == expected, f"the groups are {by_key}, not {expected}")
        for key, found in by_key.items():
            self._check_group(self._groups[key], found)

    def _check_group(self, group: Group, found: dict[str, Any]) -> None:
        members = group.members
        context = f"{found}: {group.exact=} {[(p.wanted, p.since) for p in members]}"
        check(found["members"] == len(members), context)
        if all(each.state is State.JOINED and not each.unsure for each in members):
            unfinished = sum(len(each.got) - each.done for each in members)
            check(found["unfinished"] == unfinished, f"{unfinished} unfinished: {context}")
        if any(each.wanted.window is None for each in group.joined):
            check(found["lag"] == 0 or self._differ(group), f"records wait: {context}")
        if group.exact and not group.partly:
            announced = group.announced
            told = found["dropped"] == announced or found["unfinished"]
            # After several attempts, a gap record is not handed out until more records are missing.
            told |= group.unsure or group.failed_gaps >= MAX_DELIVERIES
            check(
                announced <= found["dropped"] or group.unsure, f"{announced} announced: {context}"
            )
            check(told, f"only {announced} announced: {context}")
            check(found["redelivered"] == group.redelivered, f"{group.redelivered}: {context}")
        done, settled = set(group.finished), set(group.finished)
        for part in group.parts:
            done.update(part.got if part.unsure else part.got[: part.done])
        for part in members:
            settled.update(part.got[: 0 if part.unsure else part.done])
        outstanding = {index for part in members for index in part.outstanding}
        unsure = any(each.unsure for each in members)
        wanted = set(self._certain(group)) - done - outstanding
        missing = found["dropped"] + found["lag"]
        check(
            len(wanted) <= missing + group.partly * len(group.parts),
            f"{sorted(wanted)} are neither finished nor missing: {context}",
        )
        filters = set().union(*(each.matching for each in group.parts))
        possible = {
            index
            for index in range(group.started, len(self._sequence))
            if self._sequence[index] in filters
        }
        possible -= settled if unsure else settled | outstanding
        if group.exact:
            check(missing <= len(possible), f"of {len(possible)} records, too many: {context}")

    def _certain(self, group: Group) -> Iterable[int]:
        """Yield the records that a member of a group wanted whenever one was offered them."""
        joined = group.joined
        start = min((each.since for each in group.parts), default=0)
        for index in range(start, len(self._sequence)):
            template = self._sequence[index]
            if any(each.since <= index and template in each.matching for each in joined) or (
                group.exact and self._all_want(group, index)
            ):
                yield index

    def _may_be_divided(self, group: Group, part: Part, index: int) -> bool:
        """Return whether a socket may have had no room for a part of a batch that others shared."""
        others = (each for each in group.parts if each is not part and each.was_member)
        return any(each.until is None or each.until >= index for each in others)

    def _all_want(self, group: Group, index: int) -> bool:
        template = self._sequence[index]
        since = [each for each in group.parts if each.until is None or each.until >= index]
        before = [each for each in since if each.was_member and each.since <= index]
        return bool(before) and all(template in each.matching for each in since)

    def _differ(self, group: Group) -> bool:
        return len({each.wanted.filter for each in group.members}) > 1

    def _is_over(self, group: Group) -> bool:
        return group.held_until is not None and self._now() > group.held_until + TOLERANCE

    def _check_alive(self, group: Group) -> None:
        """Note if the group may have ended."""
        founded = any(each.state is not State.REQUESTED for each in group.parts)
        group.exact &= bool(group.joined) or not founded
