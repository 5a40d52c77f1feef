# SPDX-License-Identifier: Apache-2.0
"""The state that a relay leaves to its successor.

The parts of the relay save and restore what is theirs. The format, and what a successor may rely
on, is decided here. State may come from another version of this program, so it is checked as a
whole before any of it is used: a part that is restored finds everything consistent.

The state is a sequence of MessagePack objects, each after its length: the version, the small
figures, and then one object for each producer, subscriber, stream, chunk and torn record. A relay
that stops writes them one by one, so that it never holds a second copy of its state.

A field may be added if it has a default. Any other change needs another `VERSION`.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Container, Iterator
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from notif_relay.request import MAX_REQUEST_SIZE
from notif_relayd.peer import Peer
from notif_relayd.records.filters import Filter, FilterError, View

VERSION = 2

_LENGTH = struct.Struct(">I")
"""Precedes each object."""


class StateError(ValueError):
    """State that cannot be used, and why."""


class ConnectionState(msgspec.Struct):
    """What producers and subscribers have in common."""

    id: int
    peer: Peer
    since: float
    """CLOCK_MONOTONIC, which goes on as long as the host does."""
    bytes: int


class ProducerState(ConnectionState, tag="producer"):
    """One connection to the private socket."""

    records: int
    rejected: int
    rest: bytes
    """Its unfinished line."""
    skipping: bool
    """Whether that was given up as too long."""


class CursorState(msgspec.Struct):
    """A place in a ring."""

    next: int
    until: int | None
    rest: bytes
    chunk: int | None
    """Index of a chunk."""
    offset: int
    torn: int | None = None
    """Index of a torn record."""
    torn_sent: int = 0
    """Bytes of it that have gone out."""


class ReadingState(msgspec.Struct):
    """A subscriber's part in a stream."""

    stream: int
    """Index of the stream."""
    cursor: CursorState | None
    charge: int = 0
    """Bytes charged for the filter."""


class SubscriberState(ConnectionState, tag="subscriber"):
    """One connection to the public socket."""

    delivered: int
    dropped: int
    request: bytes
    listening: bool
    reading: ReadingState
    following: ReadingState | None

    @property
    def readings(self) -> list[ReadingState]:
        """Both, or one."""
        return [self.reading] if self.following is None else [self.reading, self.following]

    @property
    def charge(self) -> int:
        """Bytes charged to the user for filters and unfinished requests."""
        return len(self.request) + sum(each.charge for each in self.readings)


class StreamState(msgspec.Struct, tag="stream"):
    """The records that a filter lets through."""

    patterns: dict[str, list[str]] | None
    next_seq: int
    allowed: list[dict[str, list[str]]] | None = None
    """What its subscribers may see: what any of these lets through."""

    def view(self) -> View:
        """What it lets through.

        Raises:
            FilterError: it is no filter.
        """
        return View(
            None if self.patterns is None else Filter.parse(self.patterns),
            None if self.allowed is None else frozenset(map(Filter.parse, self.allowed)),
        )


class ChunkState(msgspec.Struct, tag="chunk"):
    """Records of a ring."""

    stream: int
    """Index of the stream."""
    data: bytes
    count: int


class TornRecordState(msgspec.Struct, tag="torn"):
    """A record that has left the ring after a part of it had gone out."""

    data: bytes


class ConnectionStatsState(msgspec.Struct):
    """What has become of those who connected to one socket."""

    accepted: int
    reconnected: int
    kept: int
    refused: dict[str, int]
    """By the word for the reason."""


class ProducerGapsState(msgspec.Struct):
    """What producers have told that they dropped, by reason."""

    dropped: dict[str, int]
    unknown: dict[str, int]


class LoopLatencyState(msgspec.Struct):
    """How long the loop's turns took."""

    counts: list[int]
    seconds: float


class IntakeState(msgspec.Struct):
    """The way in."""

    received: int
    bytes_received: int
    rejected: dict[str, int]
    """By the name of the reason."""
    producers: list[ProducerState]
    connections: ConnectionStatsState | None = None
    producer_gaps: ProducerGapsState | None = msgspec.field(default=None, name="losses")


class FanoutState(msgspec.Struct):
    """The way out."""

    discarded: int
    delivered: int
    """By connections that have ended."""
    dropped: int
    bytes: int
    streams: list[StreamState]
    chunks: list[ChunkState]
    """Of all rings, the oldest first."""
    subscribers: list[SubscriberState]
    connections: ConnectionStatsState | None = None
    unknown_gaps: int = 0
    """Gap records without a number that subscribers got."""
    torn: list[TornRecordState] = []

    def forget(self, subscriber: SubscriberState) -> None:
        """Keep only the figures of a subscriber whose connection has ended."""
        self.delivered += subscriber.delivered
        self.dropped += subscriber.dropped
        self.bytes += subscriber.bytes

    @property
    def streams_in_use(self) -> set[int]:
        """Indexes of the streams that a subscriber reads."""
        return {each.stream for who in self.subscribers for each in who.readings}


class State(msgspec.Struct):
    """The relay."""

    next_id: int
    intake: IntakeState
    fanout: FanoutState
    turns: LoopLatencyState | None = None


class _Header(msgspec.Struct):
    version: int
    objects: int = 0
    """Number of the objects that follow."""


_Part = ProducerState | SubscriberState | StreamState | ChunkState | TornRecordState

_Buffer = bytes | memoryview | mmap.mmap


def encode(state: State) -> Iterator[bytes]:
    """Yield the state in pieces; the largest holds one chunk, record or request."""
    intake, fanout = state.intake, state.fanout
    head = replace(
        state,
        intake=replace(intake, producers=[]),
        fanout=replace(fanout, subscribers=[], streams=[], chunks=[], torn=[]),
    )
    parts: list[_Part] = [
        *intake.producers,
        *fanout.subscribers,
        *fanout.streams,
        *fanout.chunks,
        *fanout.torn,
    ]
    for each in (_Header(VERSION, 1 + len(parts)), head, *parts):
        data = msgspec.msgpack.encode(each)
        yield _LENGTH.pack(len(data))
        yield data


def decode(data: _Buffer, subscribers: Container[int] | None = None) -> State:
    """Return the state that `encode` made.

    Args:
        data: what `encode` yielded.
        subscribers: numbers of the subscribers that are still connected; the others' figures are
            kept, and nothing else of them. All of them if it is `None`.

    Raises:
        StateError: it is of another version, damaged, or contradicts itself.
    """
    objects = _objects(memoryview(data))
    try:
        header = msgspec.msgpack.decode(next(objects, b""), type=_Header)
        if header.version != VERSION:
            raise StateError(f"it is of version {header.version}, and this relay reads {VERSION}")
        state = msgspec.msgpack.decode(next(objects, b""), type=State)
        count = 1
        for each in objects:
            _add(state, msgspec.msgpack.decode(each, type=_Part), subscribers)
            count += 1
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateError(f"it cannot be decoded: {error}") from None
    if count != header.objects:
        raise StateError(f"it has {count} of {header.objects} objects")
    _check(state)
    return state


def _objects(view: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(view):
        start = at + _LENGTH.size
        if start > len(view):
            raise StateError("it is cut off")
        (length,) = _LENGTH.unpack_from(view, at)
        at = start + length
        if at > len(view):
            raise StateError("it is cut off")
        yield view[start:at]


def _add(state: State, part: _Part, subscribers: Container[int] | None) -> None:
    fanout = state.fanout
    if isinstance(part, ProducerState):
        state.intake.producers.append(part)
    elif isinstance(part, StreamState):
        fanout.streams.append(part)
    elif isinstance(part, ChunkState):
        fanout.chunks.append(part)
    elif isinstance(part, TornRecordState):
        fanout.torn.append(part)
    elif subscribers is None or part.id in subscribers:
        fanout.subscribers.append(part)
    else:
        fanout.forget(part)


def _check(state: State) -> None:
    intake, fanout = state.intake, state.fanout
    connections = (*intake.producers, *fanout.subscribers)
    ids = [each.id for each in connections]
    _require(all(math.isfinite(each.since) for each in connections), "a time is none")
    _require(len(set(ids)) == len(ids), "two connections have the same id")
    _require(all(0 < each < state.next_id for each in ids), "a connection has an impossible id")
    _require(not any(b"\n" in each.rest for each in intake.producers), "a line is not unfinished")
    _check_streams(fanout)
    numbers = _check_chunks(fanout)
    for subscriber in fanout.subscribers:
        readings = subscriber.readings
        _require(len(subscriber.request) <= MAX_REQUEST_SIZE, "a request is too long")
        _require(all(each.charge >= 0 for each in readings), "a charge is negative")
        for reading in readings:
            _require(0 <= reading.stream < len(fanout.streams), "a stream is missing")
            if reading.cursor is not None:
                _check_cursor(reading.cursor, reading.stream, fanout, numbers)
        _require(
            len(readings) == 1 or all(each.cursor is not None for each in readings),
            "a filter is to follow one that is not being left",
        )
        _require(
            all(_is_between(each.cursor, fanout.chunks) for each in readings[1:] if each.cursor),
            "a filter is to begin within a record",
        )


def _check_streams(fanout: FanoutState) -> None:
    in_use = fanout.streams_in_use
    used = [stream for number, stream in enumerate(fanout.streams) if number in in_use]
    try:
        views = {stream.view() for stream in used}
    except FilterError as error:
        raise StateError(f"a stream's filter cannot be used: {error}") from None
    _require(len(views) == len(used), "two streams are the same")
    _require(all(stream.patterns != {} for stream in fanout.streams), "a filter is empty")


class _Numbers(NamedTuple):
    """The numbers of records at which something begins or ends."""

    newest: list[int]
    """For each stream, where it ends."""
    oldest: list[int]
    """For each stream, where what is kept of it begins."""
    boundaries: list[set[int]]
    """For each stream, where its chunks begin and end."""
    ends: list[int]
    """For each chunk, where it ends."""


def _check_chunks(fanout: FanoutState) -> _Numbers:
    _require(all(each.data.endswith(b"\n") for each in fanout.torn), "a torn record has no end")
    newest = [each.next_seq for each in fanout.streams]
    oldest = newest.copy()
    boundaries = [{each} for each in newest]
    ends = []
    for chunk in reversed(fanout.chunks):
        _require(0 <= chunk.stream < len(fanout.streams), "a chunk is in no stream")
        _require(chunk.data.endswith(b"\n"), "a chunk ends within a record")
        _require(chunk.count == chunk.data.count(b"\n"), "a chunk is miscounted")
        ends.append(oldest[chunk.stream])
        oldest[chunk.stream] -= chunk.count
        boundaries[chunk.stream].add(oldest[chunk.stream])
    _require(all(each >= 0 for each in oldest), "a stream has more records than it had")
    return _Numbers(newest, oldest, boundaries, ends[::-1])


def _check_cursor(cursor: CursorState, stream: int, fanout: FanoutState, numbers: _Numbers) -> None:
    chunks = fanout.chunks
    _require(cursor.rest[-1:] in (b"", b"\n"), "a rest has no end")
    oldest = numbers.oldest[stream]
    end = numbers.newest[stream] if cursor.until is None else cursor.until
    # A subscriber whose request was refused gets no record after the one it was in.
    at_its_end = cursor.chunk is None and cursor.next == end <= numbers.newest[stream]
    at_boundary = 0 <= end <= oldest or end in numbers.boundaries[stream]
    _require(at_its_end or at_boundary, "a place ends in a chunk")
    if cursor.chunk is None:
        _require(0 <= cursor.next <= end, "a place is in the future")
        _require(cursor.next <= oldest or cursor.next == end, "a place is in no chunk")
    else:
        _require(0 <= cursor.chunk < len(chunks), "a place is in a chunk that is missing")
        chunk = chunks[cursor.chunk]
        _require(chunk.stream == stream, "a place is in another stream's chunk")
        _require(0 <= cursor.offset <= len(chunk.data), "a place is outside of its chunk")
        _require(numbers.ends[cursor.chunk] <= end, "a place is behind its end")
        between = _is_between(cursor, chunks)
        nothing_before = not cursor.rest and cursor.torn is None
        _require(between or nothing_before, "a rest comes within a record")
    if cursor.torn is not None:
        _require(0 <= cursor.torn < len(fanout.torn), "a torn record is missing")
        size = len(fanout.torn[cursor.torn].data)
        _require(0 <= cursor.torn_sent < size, "a place is outside of its torn record")


def _is_between(cursor: CursorState, chunks: list[ChunkState]) -> bool:
    """Whether a record ends there, and not only later."""
    if cursor.chunk is None or not cursor.offset:
        return True
    return chunks[cursor.chunk].data[cursor.offset - 1 : cursor.offset] == b"\n"


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StateError(f"it contradicts itself: {otherwise}")
