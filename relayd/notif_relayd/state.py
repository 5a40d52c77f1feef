# SPDX-License-Identifier: Apache-2.0
"""What a relay leaves to its successor: all that is in its memory, as one piece of bytes.

The parts put together and take apart what is theirs; how it is written, and what a successor may
rely on, is decided here. State comes from another version of this program, and nobody can ask it
what it meant. So it is checked as a whole before any of it is used: whoever restores a part finds
everything consistent, and half a restored relay cannot come about.

A field may be added if it has a default. Anything else needs another `VERSION`, and a way to read
the one before.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from notif_relayd.filters import Filter, FilterError, View
from notif_relayd.peer import Peer

VERSION = 1


class StateError(ValueError):
    """State that cannot be used, and why."""


class ConnectionState(msgspec.Struct):
    """What producers and subscribers have in common."""

    id: int
    peer: Peer
    since: float
    """CLOCK_MONOTONIC, which goes on as long as the host does."""
    bytes: int


class ProducerState(ConnectionState):
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


class ReadingState(msgspec.Struct):
    """A subscriber's part in a stream."""

    stream: int
    """Index of the stream."""
    cursor: CursorState | None


class SubscriberState(ConnectionState):
    """One connection to the public socket."""

    delivered: int
    dropped: int
    request: bytes
    listening: bool
    reading: ReadingState
    following: ReadingState | None


class StreamState(msgspec.Struct):
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


class ChunkState(msgspec.Struct):
    """Records of a ring."""

    stream: int
    """Index of the stream."""
    data: bytes
    count: int


class ConnectionsState(msgspec.Struct):
    """What has become of those who connected to one socket."""

    accepted: int
    reconnected: int
    kept: int
    refused: dict[str, int]
    """By the word for the reason."""


class LossesState(msgspec.Struct):
    """What producers have told that they dropped, by reason."""

    dropped: dict[str, int]
    unknown: dict[str, int]


class TurnsState(msgspec.Struct):
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
    connections: ConnectionsState | None = None
    losses: LossesState | None = None


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
    connections: ConnectionsState | None = None
    unknown_gaps: int = 0
    """Gap records without a number that subscribers got."""


class State(msgspec.Struct):
    """The relay."""

    next_id: int
    intake: IntakeState
    fanout: FanoutState
    turns: TurnsState | None = None


class _Envelope(msgspec.Struct):
    version: int
    state: msgspec.Raw


def encode(state: State) -> bytes:
    """The state as bytes."""
    return msgspec.msgpack.encode(_Envelope(VERSION, msgspec.Raw(msgspec.msgpack.encode(state))))


def decode(data: bytes) -> State:
    """The state that `encode` made, of this version or one before.

    Raises:
        StateError: it is of a version that is not known here, damaged, or contradicts itself.
    """
    try:
        envelope = msgspec.msgpack.decode(data, type=_Envelope)
        if envelope.version != VERSION:
            raise StateError(f"it is of version {envelope.version}, and this relay reads {VERSION}")
        state = msgspec.msgpack.decode(envelope.state, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateError(f"it cannot be decoded: {error}") from None
    _check(state)
    return state


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
        readings = [each for each in (subscriber.reading, subscriber.following) if each is not None]
        for reading in readings:
            _require(0 <= reading.stream < len(fanout.streams), "a stream is missing")
            if reading.cursor is not None:
                _check_cursor(reading.cursor, reading.stream, fanout.chunks, numbers)
        _require(
            len(readings) == 1 or all(each.cursor is not None for each in readings),
            "a filter is to follow one that is not being left",
        )
        _require(
            all(_is_between(each.cursor, fanout.chunks) for each in readings[1:] if each.cursor),
            "a filter is to begin within a record",
        )


def _check_streams(fanout: FanoutState) -> None:
    try:
        views = {stream.view() for stream in fanout.streams}
    except FilterError as error:
        raise StateError(f"a stream's filter cannot be used: {error}") from None
    _require(len(views) == len(fanout.streams), "two streams are the same")
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


def _check_cursor(
    cursor: CursorState, stream: int, chunks: list[ChunkState], numbers: _Numbers
) -> None:
    _require(cursor.rest[-1:] in (b"", b"\n"), "a rest has no end")
    oldest = numbers.oldest[stream]
    end = numbers.newest[stream] if cursor.until is None else cursor.until
    _require(0 <= end <= oldest or end in numbers.boundaries[stream], "a place ends in a chunk")
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
        _require(between or not cursor.rest, "a rest comes within a record")


def _is_between(cursor: CursorState, chunks: list[ChunkState]) -> bool:
    """Whether a record ends there, and not only later."""
    if cursor.chunk is None or not cursor.offset:
        return True
    return chunks[cursor.chunk].data[cursor.offset - 1 : cursor.offset] == b"\n"


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StateError(f"it contradicts itself: {otherwise}")
