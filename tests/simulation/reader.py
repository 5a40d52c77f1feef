# SPDX-License-Identifier: Apache-2.0
"""What the model knows of one subscriber."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from simulation.group_model import Part
from simulation.vocabulary import Wanted

TOO_MANY = 1_000_000
"""More notifications than a subscriber is ever sent."""


@dataclass
class Request:
    """A request of a subscriber."""

    wanted: Wanted | None
    """`None` if the request is invalid, or reports finished notifications."""
    done: int | None = None
    """Number of finished notifications, in a request that reports them."""
    earliest: int = -1
    """Index of the first record that the filter may apply to; below 0 if the relay has not read
    the request."""
    latest: int | None = None
    """Index of the last such record; `None` if another request has to be answered before."""
    part: Part | None = None
    """The subscriber's part in the group that the relay has read the name of."""

    @property
    def was_read(self) -> bool:
        """Whether the relay has read it."""
        return self.earliest >= 0


@dataclass
class Reader:
    """What a subscriber has received."""

    positions: set[int]
    """Indexes in the sequence at which it may be, unless it is in a group."""
    requests: deque[Request]
    """Requests without an answer. The simulated client appends to it."""
    uid: int
    wanted: Wanted = field(default_factory=Wanted)
    """The request in force."""
    part: Part | None = None
    """Set while it is in a group."""
    delivered: int = 0
    dropped: int = 0
    received_bytes: int = 0
    ended: bool = False
    """Whether it got an error record, after which nothing may follow."""
    crashed_at: int | None = None
    """Length of the sequence when a relay was last killed."""
    stored: Wanted | None = None
    """The request in the store at that time, until the subscriber gets the answer again."""
    stored_part: Part | None = None
    """Its part in the group of this request."""
    may_be_refused: bool = False
    """Whether it may have reported more notifications than it was sent."""
    request_lost: bool = False
    """Whether the killed relay had answered a request and not stored it."""
    restarting: bool = False
    """Whether a relay was killed and the subscriber has not got the gap record yet."""
    unfinished: bytes | None = None
    """The partial line that it had then, until the newline that the next relay sends first."""
    request_data: bytes = b""
    """A partial request that the relay has read."""
    partial: bytes = b""
    """A partial line that the subscriber has received."""
    partial_precedes: bool = False
    """Whether `partial` began before the relay read the request that is in progress."""

    @property
    def filter(self) -> int:
        """Index of the filter in force."""
        return self.wanted.filter

    @property
    def parts(self) -> list[Part]:
        """Its parts in groups, the present one last."""
        parts = [*(each.part for each in self.requests), self.stored_part, self.part]
        return [each for each in parts if each is not None]
