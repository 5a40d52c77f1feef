# SPDX-License-Identifier: Apache-2.0
"""The state that a process hands over to the next: its format, and its consistency checks.

The state may come from another version of this program or be damaged. `decode` checks all of it
before any of it is used, so that no part of the relay has to check what it restores.

The state is a sequence of MessagePack objects, each after its length: the version, the counters,
and then one object for each producer, subscriber, stream, chunk and torn record. `encode` yields
the objects one by one, so that a second copy of the whole state is never in memory.

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
from notif_relayd.fanout.saved_state import (
    ChunkState,
    CursorState,
    FanoutState,
    GroupState,
    StreamState,
    SubscriberState,
    TornRecordState,
    ViewState,
)
from notif_relayd.handover.errors import StateError, require
from notif_relayd.handover.group_checks import check_groups, check_member
from notif_relayd.ingest.saved_state import IntakeState, ProducerState
from notif_relayd.net.loop_latency import LoopLatencyState
from notif_relayd.records.filters import FilterError

VERSION = 2

_LENGTH = struct.Struct(">I")
"""Length of an object in bytes, in front of the object."""


class State(msgspec.Struct):
    """The state of a relay."""

    next_id: int
    """The next connection number."""
    intake: IntakeState
    fanout: FanoutState
    latency: LoopLatencyState | None = msgspec.field(default=None, name="turns")


class _Header(msgspec.Struct):
    version: int
    objects: int = 0
    """Number of objects after the header."""


_Part = ProducerState | SubscriberState | StreamState | ChunkState | TornRecordState | GroupState

_Buffer = bytes | memoryview | mmap.mmap


def encode(state: State) -> Iterator[bytes]:
    """Yield the encoded state in parts; the largest part holds one chunk, record or request."""
    intake, fanout = state.intake, state.fanout
    head = replace(
        state,
        intake=replace(intake, producers=[]),
        fanout=replace(fanout, subscribers=[], streams=[], chunks=[], torn=[], groups=[]),
    )
    parts: list[_Part] = [
        *intake.producers,
        *fanout.subscribers,
        *fanout.streams,
        *fanout.chunks,
        *fanout.torn,
        *fanout.groups,
    ]
    for each in (_Header(VERSION, 1 + len(parts)), head, *parts):
        data = msgspec.msgpack.encode(each)
        yield _LENGTH.pack(len(data))
        yield data


def decode(data: _Buffer, subscribers: Container[int] | None = None) -> State:
    """Decode and check a state.

    Args:
        data: the concatenated output of `encode`.
        subscribers: numbers of the subscribers that are still connected. Of all others, only the
            counters are kept. `None` if all are connected.

    Raises:
        StateError: the state has another version, or it is damaged or inconsistent.
    """
    objects = _objects(memoryview(data))
    try:
        header = msgspec.msgpack.decode(next(objects, b""), type=_Header)
        if header.version != VERSION:
            raise StateError(f"version {header.version} is not supported, only {VERSION} is")
        state = msgspec.msgpack.decode(next(objects, b""), type=State)
        count = 1
        for each in objects:
            _add(state, msgspec.msgpack.decode(each, type=_Part), subscribers)
            count += 1
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateError(f"cannot be decoded: {error}") from None
    if count != header.objects:
        raise StateError(f"found {count} of {header.objects} objects")
    _check(state)
    return state


def _objects(view: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(view):
        start = at + _LENGTH.size
        if start > len(view):
            raise StateError("truncated")
        (length,) = _LENGTH.unpack_from(view, at)
        at = start + length
        if at > len(view):
            raise StateError("truncated")
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
    elif isinstance(part, GroupState):
        fanout.groups.append(part)
    elif subscribers is None or part.id in subscribers:
        fanout.subscribers.append(part)
    else:
        fanout.add_ended(part)


def _check(state: State) -> None:
    intake, fanout = state.intake, state.fanout
    connections: list[ProducerState | SubscriberState] = [*intake.producers, *fanout.subscribers]
    ids = [each.id for each in connections]
    require(
        all(math.isfinite(each.since) for each in connections),
        "connection timestamp is not finite",
    )
    require(len(set(ids)) == len(ids), "two connections have the same ID")
    require(all(0 < each < state.next_id for each in ids), "connection ID is out of range")
    require(
        not any(b"\n" in each.partial for each in intake.producers),
        "partial record of a producer contains a newline",
    )
    _check_streams(fanout)
    numbers = _check_chunks(fanout)
    check_groups(fanout, numbers.newest)
    for subscriber in fanout.subscribers:
        _check_subscriber(subscriber, fanout, numbers)


def _check_subscriber(
    subscriber: SubscriberState, fanout: FanoutState, numbers: _SequenceNumbers
) -> None:
    subscriptions = subscriber.subscriptions
    require(len(subscriber.request) <= MAX_REQUEST_SIZE, "request of a subscriber is too long")
    require(
        subscriber.lost_before is None or 0 <= subscriber.lost_before <= subscriber.dropped,
        "subscriber has lost fewer records than before",
    )
    require(all(each.charge >= 0 for each in subscriptions), "charge for a filter is negative")
    for each in subscriptions:
        if each.cursor is not None:
            _check_torn(each.cursor, fanout)
        if each.member is not None:
            check_member(each, is_last=each is subscriptions[-1])
            continue
        require(0 <= each.stream < len(fanout.streams), "subscriber reads a missing stream")
        if each.cursor is not None:
            _check_cursor(each.cursor, each.stream, fanout, numbers)
    require(
        len(subscriptions) == 1 or all(each.cursor is not None for each in subscriptions),
        "pending filter change has no cursor",
    )
    require(
        all(
            each.cursor.torn is None and _is_at_boundary(each.cursor, fanout.chunks)
            for each in subscriptions[1:]
            if each.cursor
        ),
        "pending filter change starts within a record",
    )


def _check_streams(fanout: FanoutState) -> None:
    in_use = fanout.streams_in_use
    used = [stream for number, stream in enumerate(fanout.streams) if number in in_use]
    try:
        views = {stream.views() for stream in used}
    except FilterError as error:
        raise StateError(f"filter of a stream is invalid: {error}") from None
    require(len(views) == len(used), "two streams have the same filter")
    require(
        all(
            view.patterns != {}
            for stream in fanout.streams
            for view in (ViewState(stream.patterns), *stream.others)
        ),
        "filter of a stream is empty",
    )


class _SequenceNumbers(NamedTuple):
    """Sequence numbers of the records at which streams and chunks begin or end."""

    newest: list[int]
    """For each stream: the number after its last record."""
    oldest: list[int]
    """For each stream: the number of the first record that is kept."""
    boundaries: list[set[int]]
    """For each stream: the numbers at which its chunks begin and end."""
    ends: list[int]
    """For each chunk: the number after its last record."""


def _check_chunks(fanout: FanoutState) -> _SequenceNumbers:
    require(
        all(each.data.endswith(b"\n") for each in fanout.torn),
        "torn record does not end with a newline",
    )
    newest = [each.next_seq for each in fanout.streams]
    oldest = newest.copy()
    boundaries = [{each} for each in newest]
    ends = []
    for chunk in reversed(fanout.chunks):
        require(0 <= chunk.stream < len(fanout.streams), "chunk belongs to a missing stream")
        require(chunk.data.endswith(b"\n"), "chunk ends within a record")
        require(chunk.count == chunk.data.count(b"\n"), "chunk has a wrong number of records")
        ends.append(oldest[chunk.stream])
        oldest[chunk.stream] -= chunk.count
        boundaries[chunk.stream].add(oldest[chunk.stream])
    require(all(each >= 0 for each in oldest), "stream keeps more records than it has had")
    return _SequenceNumbers(newest, oldest, boundaries, ends[::-1])


def _check_cursor(
    cursor: CursorState, stream: int, fanout: FanoutState, numbers: _SequenceNumbers
) -> None:
    chunks = fanout.chunks
    require(cursor.inserted[-1:] in (b"", b"\n"), "inserted record does not end with a newline")
    oldest = numbers.oldest[stream]
    end = numbers.newest[stream] if cursor.until is None else cursor.until
    # A subscriber whose request was refused gets no record after the one that was being sent, so
    # its end may be within a chunk.
    at_its_end = cursor.chunk is None and cursor.next == end <= numbers.newest[stream]
    at_boundary = 0 <= end <= oldest or end in numbers.boundaries[stream]
    require(at_its_end or at_boundary, "cursor ends within a chunk")
    if cursor.chunk is None:
        require(0 <= cursor.next <= end, "cursor is beyond its end")
        require(cursor.next <= oldest or cursor.next == end, "cursor is not in a chunk")
    else:
        require(0 <= cursor.chunk < len(chunks), "cursor is in a missing chunk")
        chunk = chunks[cursor.chunk]
        require(chunk.stream == stream, "cursor is in a chunk of another stream")
        require(0 <= cursor.offset <= len(chunk.data), "cursor is outside its chunk")
        require(numbers.ends[cursor.chunk] <= end, "cursor ends before its chunk does")
        nothing_before = not cursor.inserted and cursor.torn is None
        require(
            _is_at_boundary(cursor, chunks) or nothing_before,
            "inserted record is within another record",
        )


def _check_torn(cursor: CursorState, fanout: FanoutState) -> None:
    if cursor.torn is not None:
        require(0 <= cursor.torn < len(fanout.torn), "cursor is in a missing torn record")
        size = len(fanout.torn[cursor.torn].data)
        require(0 <= cursor.torn_sent < size, "cursor is outside its torn record")


def _is_at_boundary(cursor: CursorState, chunks: list[ChunkState]) -> bool:
    """Return whether a cursor is between two records, not within one."""
    if cursor.chunk is None or not cursor.offset:
        return True
    return chunks[cursor.chunk].data[cursor.offset - 1 : cursor.offset] == b"\n"
