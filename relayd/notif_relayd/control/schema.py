# SPDX-License-Identifier: Apache-2.0
"""Message types of the control socket: one JSON request per line, one JSON answer per line.

relayctl and the daemon share these types and nothing that computes them. The field names are an
interface, which monitoring programs read through ``relayctl -f json``. Times are in seconds, sizes
in bytes. Counters start at 0 with the daemon and continue over a restart that keeps its state.
"""

import msgspec


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """One request."""

    method: str
    id: int | None = None
    """Number of the connection, for a method that is about one connection."""


class Status(msgspec.Struct):
    """The relay as a whole."""

    version: str
    pid: int
    uptime_seconds: float
    producers: int
    subscribers: int
    records_received: int
    """Valid records from all producers."""
    records_delivered: int
    """Counted once for each subscriber that received the record."""
    records_dropped: int
    """Counted once for each subscriber, or group of subscribers, that missed the record."""
    records_rejected: int
    records_discarded: int
    """Records that arrived while no subscriber was connected and no group was held."""
    bytes_received: int
    bytes_delivered: int
    ring_bytes: int
    """Bytes kept for subscribers and groups that are behind; 0 while none is."""
    ring_limit_bytes: int
    public_socket: str
    ingest_socket: str


class ConnectionStatus(msgspec.Struct):
    """Fields that producers and subscribers have in common."""

    id: int
    """Number of the connection, which is never used again."""
    pid: int
    command: str
    uid: int
    connected_seconds: float
    records: int
    bytes: int


class ProducerStatus(ConnectionStatus):
    """One connection to the private socket."""

    rejected: int


class SubscriberStatus(ConnectionStatus):
    """One connection to the public socket."""

    lag: int
    """Records in the ring that the subscriber has not received yet."""
    dropped: int
    """Records that the subscriber missed."""
    group: str = ""
    """Name of its group; empty if it is in none."""


class GroupStatus(msgspec.Struct):
    """One group of subscribers."""

    group: str
    """Name of the group, which is unique among the groups of one user."""
    uid: int
    members: int
    lag: int
    """Records in the ring that have not been handed out."""
    unfinished: int
    """Records that members received and have not finished."""
    redelivered: int
    """Records that were handed out again, counted each time."""
    dropped: int
    """Records that the group missed."""
    hold_seconds: float | None
    """Time left until a group without members ends; null with members."""


class GroupTotals(msgspec.Struct):
    """All groups together."""

    groups: int = 0
    held: int = 0
    """Groups without members, which keep their place."""
    members: int = 0
    max_lag: int = 0
    """Records that have not been handed out, of the group with the most of them."""
    unfinished: int = 0
    redelivered: int = 0
    dropped: int = 0
    held_ring_bytes: int = 0
    """Bytes in the ring from the oldest record on that a group without members has not handed out.
    The record is evicted when they exceed `Status.ring_limit_bytes`."""


class ConnectionCounters(msgspec.Struct):
    """Connection statistics for one listening socket."""

    accepted: int
    reconnected: int
    """Accepted connections of a process that had been connected before."""
    kept: int
    """Connections taken over from the previous relay process."""
    refused: dict[str, int]
    """Refused connections, by reason."""


class LatencyHistogram(msgspec.Struct):
    """Durations of the event loop's iterations."""

    counts: list[int]
    """One count for each of `Metrics.turn_bounds`, and a last one for longer iterations."""
    seconds: float
    """Sum of all durations."""


class Metrics(msgspec.Struct):
    """Everything that `relayctl metrics` exports, taken at one moment."""

    status: Status
    python: str
    """Version of the Python interpreter."""
    started: float
    """Start of the daemon, in seconds since the epoch."""
    rejected: dict[str, int]
    """Rejected records, by reason."""
    dropped: dict[str, int]
    """Dropped records, by the reason in their gap records."""
    unknown_gaps: dict[str, int]
    """Gap records without a number, by reason."""
    subscribers_behind: int
    max_lag: int
    """Records that the subscriber furthest behind has not received yet."""
    connections: dict[str, ConnectionCounters]
    """By the name of the socket: ``public`` and ``ingest``."""
    turn_bounds: list[float]
    """Upper bounds of the histogram's buckets, in seconds."""
    turns: LatencyHistogram
    groups: GroupTotals = msgspec.field(default_factory=GroupTotals)
