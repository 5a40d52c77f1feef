# SPDX-License-Identifier: Apache-2.0
"""What the fan-out saves for the next process.

Objects refer to each other by indexes into the lists of `FanoutState`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from notif_relayd.access.connection_stats import ConnectionStatsState
from notif_relayd.fanout.groups.missing import Missing
from notif_relayd.fanout.groups.run import Run
from notif_relayd.peer import Peer
from notif_relayd.records.filters import Filter, View

FilterState = dict[str, Any]
"""A filter, in the form that `Filter.parse` accepts and checks."""

GROUP_MEMBER = -1
"""Index of the stream in the saved subscription of a member of a group."""


class CursorState(msgspec.Struct):
    """A position in the ring of a stream."""

    next: int
    """Sequence number of the next record, if there is no chunk."""
    until: int | None
    """Sequence number of the first record that is not sent; `None` for no end."""
    inserted: bytes = msgspec.field(name="rest")
    """Records of the relay itself that are sent before the next record of the ring."""
    chunk: int | None
    """Index of the chunk that the last byte sent came from."""
    offset: int
    """Bytes of the chunk before the position."""
    torn: int | None = None
    """Index of a torn record, which is sent before anything else."""
    torn_sent: int = 0
    """Bytes of the torn record that have been sent."""


class SubscriptionState(msgspec.Struct):
    """A subscriber's position in a stream."""

    stream: int
    """Index of the stream; -1 for a member of a group."""
    cursor: CursorState | None
    """`None` if the subscriber is current."""
    charge: int = 0
    """Bytes charged to the user for the filter."""
    member: MemberState | None = None
    """Set for a member of a group."""


class SubscriberState(msgspec.Struct, tag="subscriber"):
    """One connection to the public socket."""

    id: int
    peer: Peer
    since: float
    """Time of the connect, by CLOCK_MONOTONIC, which continues until the host is rebooted."""
    bytes_sent: int = msgspec.field(name="bytes")
    delivered: int
    dropped: int
    request: bytes
    """Requests, or the beginning of one, that have not been handled."""
    listening: bool
    """Whether the subscriber may send further requests."""
    subscription: SubscriptionState = msgspec.field(name="reading")
    pending: SubscriptionState | None = msgspec.field(name="following")
    """What the subscriber reads after `subscription`, while a filter change is pending."""
    lost_before: int | None = None
    """Value of `dropped` before the loss that the log has reported; `None` if there is none."""

    @property
    def subscriptions(self) -> list[SubscriptionState]:
        """`subscription`, and `pending` if there is one."""
        return [self.subscription] if self.pending is None else [self.subscription, self.pending]

    @property
    def charge(self) -> int:
        """Bytes charged to the user for filters and unfinished requests."""
        return len(self.request) + sum(each.charge for each in self.subscriptions)


class ViewState(msgspec.Struct):
    """A view: it selects records."""

    patterns: FilterState | None
    """The filter; `None` for all records."""
    allowed: list[FilterState] | None = None
    """Filters of the access rules: subscribers may read records that match any of them. `None` if
    they may read all records."""

    @classmethod
    def of(cls, view: View) -> ViewState:
        """Return the state of a view."""
        allowed = view.allowed
        return cls(
            None if view.requested is None else view.requested.request,
            None if allowed is None else [each.request for each in allowed],
        )

    def view(self) -> View:
        """Return the view.

        Raises:
            FilterError: a filter is malformed or exceeds a limit.
        """
        return View(
            None if self.patterns is None else Filter.parse(self.patterns),
            None if self.allowed is None else frozenset(map(Filter.parse, self.allowed)),
        )


class StreamState(msgspec.Struct, tag="stream"):
    """The records that any of some views contains."""

    patterns: FilterState | None
    """Like `allowed`: of the first view."""
    next_seq: int
    """Sequence number of the next record."""
    allowed: list[FilterState] | None = None
    others: list[ViewState] = []
    """The other views; only a group's stream has any."""

    @classmethod
    def of(cls, views: Iterable[View], next_seq: int) -> StreamState:
        """Return the state of a stream."""
        first, *others = map(ViewState.of, views)
        return cls(first.patterns, next_seq, first.allowed, others)

    def views(self) -> frozenset[View]:
        """Return the views that select the records.

        Raises:
            FilterError: a filter is malformed or exceeds a limit.
        """
        first = ViewState(self.patterns, self.allowed)
        return frozenset(each.view() for each in (first, *self.others))


class SegmentState(msgspec.Struct):
    """A part of what a group reads."""

    number: int
    stream: int
    """Index of the stream."""
    next_seq: int
    stop_seq: int | None


class GroupState(msgspec.Struct, tag="group"):
    """A group without its members."""

    uid: int
    name: str
    segments: list[SegmentState]
    waiting: list[Run]
    missing: Missing | None
    """Records that are to be announced as missing."""
    deferred: Missing | None
    """The same, with the next ones."""
    dropped: int
    redelivered: int
    held_until: float | None
    """Time, by CLOCK_MONOTONIC, at which a group without members ends; `None` with members."""
    since: str
    """Time at which the group began, in UTC."""
    given_up: int = 0
    """The part of `dropped` that was not handed out again."""
    lost_before: int | None = None
    """Number of lost records before the loss that the log has reported; `None` without one."""


class MemberState(msgspec.Struct):
    """A subscriber's part in a group."""

    uid: int
    name: str
    """Name of the group."""
    view: ViewState
    window: int | None
    hold: float
    unfinished: list[Run]
    gaps: list[tuple[int, Missing]]
    unsent: list[Run]
    missing: Missing | None
    taken: int
    sent: int
    finished: int
    attached: bool
    left: bool
    """Whether it has left the group, and only the rest of a record is sent."""
    has_begun: bool = False
    """Whether its socket may have taken a part of the first record in `unsent`."""
    owed: int = 0
    """Number of finished records of which the socket of a member that has left owes a part."""


class ChunkState(msgspec.Struct, tag="chunk"):
    """Consecutive records of a ring."""

    stream: int
    """Index of the stream."""
    data: bytes
    count: int
    """Number of records in `data`."""


class TornRecordState(msgspec.Struct, tag="torn"):
    """A record that left the ring after a part of it had been sent to a subscriber."""

    data: bytes


class FanoutState(msgspec.Struct):
    """Counters of the fan-out, its streams and its subscribers."""

    discarded: int
    delivered: int
    """Like `dropped` and `bytes`: of connections that have ended."""
    dropped: int
    bytes: int
    streams: list[StreamState]
    chunks: list[ChunkState]
    """Chunks of all rings, the oldest first."""
    subscribers: list[SubscriberState]
    connections: ConnectionStatsState | None = None
    unknown_gaps: int = 0
    """Gap records without a number that subscribers received."""
    torn: list[TornRecordState] = []
    groups: list[GroupState] = []
    groups_dropped: int = 0
    """Records that groups which have ended missed."""
    groups_redelivered: int = 0
    """Records that groups which have ended handed out again."""
    groups_undeliverable: int = 0
    """Records that groups did not hand out again."""
    absent: list[MemberState] = []
    """Members of groups whose connections have ended."""

    def add_ended(self, subscriber: SubscriberState) -> None:
        """Add the counters of a subscriber whose connection has ended; note what it leaves."""
        self.absent += (each.member for each in subscriber.subscriptions if each.member is not None)
        self.delivered += subscriber.delivered
        self.dropped += subscriber.dropped
        self.bytes += subscriber.bytes_sent

    @property
    def streams_in_use(self) -> set[int]:
        """Indexes of the streams that at least one subscriber or group reads."""
        plain = {part.stream for each in self.subscribers for part in each.subscriptions}
        grouped = {segment.stream for each in self.groups for segment in each.segments}
        return (plain | grouped) - {GROUP_MEMBER}
