# SPDX-License-Identifier: Apache-2.0
"""What a group knows of one of its members."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from notif_relay.group import MAX_WINDOW
from notif_relayd.fanout.groups.errors import GroupError
from notif_relayd.fanout.groups.missing import Missing
from notif_relayd.fanout.groups.run import Run
from notif_relayd.records.filters import View
from notif_relayd.records.selector import Mask
from notif_relayd.records.subscription_request import NOT_WINDOWED


@dataclass(slots=True, eq=False)
class Member:
    """A subscriber's part in a group."""

    view: View
    """The records that it may get."""
    window: int | None = None
    """Maximum number of unfinished records; `None` if the socket's acceptance finishes a record."""
    unfinished: deque[Run] = field(default_factory=deque)
    """Records of producers that it got and has not finished, in the order in which it got them."""
    gaps: deque[tuple[int, Missing]] = field(default_factory=deque)
    """Gap records of the relay that it got and has not finished, each after the number of records
    that were sent before it."""
    unfinished_count: int = 0
    """Number of records in `unfinished` and `gaps`."""
    unsent: list[Run] = field(default_factory=list)
    """Records of which its socket has yet to take a part."""
    missing: Missing | None = None
    """What the gap record announces of which its socket has yet to take a part."""
    taken: int = 0
    """Number of records of producers that its socket took."""
    sent: int = 0
    """Number of records that its socket took, with a window: those of producers and the gap records
    of the relay."""
    finished: int = 0
    """Number of these that it has finished."""
    attached: bool = True
    """Whether it can get records; `False` while it gets the records of an earlier request."""
    examined: tuple[int, int] = (0, 0)
    """Segment and sequence number up to which it wants no waiting record."""
    has_begun: bool = False
    """Whether its socket may have taken a part of the first in `unsent`."""
    hold: float = 0.0
    """Seconds for which the group keeps its place after this member has left as the last."""

    unfinished_in: Counter[int] = field(init=False, default_factory=Counter)
    """Number of records in `unfinished`, by segment."""
    mask: Mask = field(init=False)
    """The bits of `view`, while it is in the group."""

    def __post_init__(self) -> None:
        for run in self.unfinished:
            self.unfinished_in[run.segment] += run.length

    @property
    def room(self) -> int:
        """Number of records that it can get now."""
        if self.unsent or self.missing is not None or not self.attached:
            return 0
        if self.window is None:
            return MAX_WINDOW
        if self.unfinished and self.unfinished[0].is_suspect:
            return 0
        return self.window - self.unfinished_count

    @property
    def is_idle(self) -> bool:
        """Whether it has finished everything that it got; always `False` without a window."""
        return self.window is not None and not self.unfinished_count

    def has_some_of(self, segment: int) -> bool:
        """Return whether it has not finished records of a segment, or its socket owes them."""
        return bool(self.unfinished_in[segment]) or any(r.segment == segment for r in self.unsent)

    def note_gap(self, missing: Missing) -> None:
        """Note that it got a gap record of the relay completely."""
        if self.window is not None:
            self.gaps.append((self.sent, missing))
            self.sent += 1
            self.unfinished_count += 1

    def finish(self, count: int) -> int:
        """Note that it has finished the first `count` notifications and gap records that it got.

        Returns:
            The number of those that were not finished before.

        Raises:
            GroupError: it has no window, was not sent so many notifications, or has finished more
                of them before.
        """
        if self.window is None:
            raise GroupError(NOT_WINDOWED)
        if count > self.sent:
            raise GroupError(
                f'"done" is {count}, but the number of records sent since the answer is '
                f"{self.sent}."
            )
        if count < self.finished:
            raise GroupError(f'"done" is {count}, but it was {self.finished} before.')
        finished = missing = count - self.finished
        self.finished = count
        self.unfinished_count -= missing
        while self.gaps and self.gaps[0][0] < count:
            self.gaps.popleft()
            missing -= 1
        while missing:
            run = self.unfinished.popleft()
            taken = min(run.length, missing)
            if run.length > taken:
                self.unfinished.appendleft(run.tail(taken))
            missing -= taken
            self.unfinished_in[run.segment] -= taken
            if not self.unfinished_in[run.segment]:
                del self.unfinished_in[run.segment]
        return finished
