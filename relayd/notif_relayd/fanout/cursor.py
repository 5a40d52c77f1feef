# SPDX-License-Identifier: Apache-2.0
"""The position of a subscriber that fell behind, and what is sent to it next.

When a chunk is evicted, its cursors leave it. Otherwise a thousand stalled subscribers would keep a
thousand old chunks in memory. A cursor that is within a record keeps that record, shared with all
cursors in the same record, and the number of the next one. Once a cursor has lost records, which
the store notes, it is not visited again until its socket takes data. A cursor's step costs
O(buffers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from notif_relayd.fanout.chunk import Chunk, TornRecord
from notif_relayd.fanout.ring import Ring
from notif_relayd.fanout.saved_state import CursorState

MAX_BUFFERS = 64
"""Maximum number of chunks for one sendmsg(2); the kernel's limit, IOV_MAX, is 1024."""

MAX_SEND_SIZE = 512 * 1024
"""Bytes for one sendmsg(2) after which no further chunk is added: twice a socket's buffer."""


class Cursor:
    """The position of a subscriber that fell behind; a new one is at the end of the ring.

    A cursor sends, in this order: the remainder of its torn record, the inserted records, and the
    chunks of the ring.

    Args:
        ring: the ring that it reads.
        gap: returns the record that announces a number of missing records.
        owner: what `Store.losing` gets when the cursor loses records.
    """

    __slots__ = (
        "_chunk",
        "_gap",
        "_inserted",
        "_next_seq",
        "_offset",
        "_owner",
        "_ring",
        "_stop_seq",
        "_torn",
        "_torn_sent",
        "announced",
    )

    def __init__(self, ring: Ring, gap: Callable[[int], bytes], owner: int = 0) -> None:
        self._ring = ring
        self._gap = gap
        self._owner = owner
        self._next_seq = ring.next_seq
        """Sequence number of the next record of the ring; valid only if `_chunk` is `None`."""
        self._stop_seq: int | None = None
        """Sequence number of the first record that is not to be sent; `None` without an end."""
        self._torn: TornRecord | None = None
        self._torn_sent = 0
        """Bytes of the torn record that were sent."""
        self._inserted = b""
        """Records of the relay itself that are sent next: a gap, an answer, or both."""
        self.announced = 0
        """Number of missing records that gap records have announced so far."""
        self._chunk: Chunk | None = None
        """The chunk of the byte that was sent last; `None` if that chunk was evicted."""
        self._offset = 0
        """Bytes of `_chunk` that were sent."""
        if ring.chunks:
            self._move(ring.chunks[-1], len(ring.chunks[-1].data))
        ring.add_place(self)

    def save(self, places: Mapping[Chunk, int], torn_records: dict[TornRecord, int]) -> CursorState:
        """Return the position; the number of announced records is saved with the subscriber.

        Args:
            places: the index of each chunk in the saved state.
            torn_records: the index of each torn record; a record that is missing is added.
        """
        chunk = None if self._chunk is None else places[self._chunk]
        torn = None
        if self._torn is not None:
            torn = torn_records.setdefault(self._torn, len(torn_records))
        return CursorState(
            self._next_seq,
            self._stop_seq,
            self._inserted,
            chunk,
            self._offset,
            torn,
            self._torn_sent,
        )

    def restore(
        self,
        saved: CursorState,
        chunks: Sequence[Chunk | None],
        torn_records: Sequence[TornRecord],
    ) -> None:
        """Take a saved position, which `handover.state` has checked.

        Args:
            saved: what `save` returned.
            chunks: the chunks by their index in the saved state.
            torn_records: the torn records by their index.
        """
        if self._chunk is not None:
            self._chunk.cursors.discard(self)
            self._chunk = None
        self._next_seq, self._stop_seq, self._inserted = saved.next, saved.until, saved.inserted
        if saved.torn is not None:
            self._hold(torn_records[saved.torn], saved.torn_sent)
        if saved.chunk is not None:
            chunk = chunks[saved.chunk]
            assert chunk is not None  # noqa: S101 - its stream has this subscriber, so it was kept
            self._move(chunk, saved.offset)

    @property
    def end(self) -> int:
        """Sequence number of the first record that this cursor will not send, as of now."""
        return self._ring.next_seq if self._stop_seq is None else self._stop_seq

    @property
    def position(self) -> int:
        """Sequence number of the first record that was not sent completely."""
        if self._chunk is None:
            return self._next_seq
        return self._chunk.first + self._chunk.whole_before(self._offset)

    @property
    def lost(self) -> int:
        """Number of evicted records that no gap record has announced yet."""
        if self._chunk is not None:
            return 0
        return max(0, min(self._ring.first_seq, self.end) - self._next_seq)

    @property
    def dropped(self) -> int:
        """Number of evicted records, announced or not."""
        return self.announced + self.lost

    @property
    def torn_lines(self) -> int:
        """Number of lines that end in what is left of the torn record."""
        return 0 if self._torn is None else self._torn.data.count(b"\n", self._torn_sent)

    @property
    def torn_share(self) -> float:
        """Bytes of the torn record that it holds, divided by the number of its holders."""
        return 0.0 if self._torn is None else self._torn.share

    @property
    def finished(self) -> bool:
        """Whether everything was sent, so that the subscriber needs no cursor."""
        if self._inserted or self._torn is not None:
            return False
        if self._chunk is None:
            return self._next_seq == self.end
        at_its_end = self._offset == len(self._chunk.data)
        return at_its_end and self._chunk.first + self._chunk.count == self.end

    @property
    def stopped(self) -> bool:
        """Whether records that are appended from now on will not be sent."""
        return self._stop_seq is not None

    def rewind(self, unsent: int) -> None:
        """Go back `unsent` bytes; the cursor must be new, and the chunk its batch."""
        self._offset -= unsent

    def buffers(self) -> list[bytes | memoryview]:
        """Return what to give to sendmsg(2); `advance` must be the next call."""
        if self._chunk is None and self._torn is None and not self._inserted:
            self._enter_ring()
        buffers: list[bytes | memoryview] = []
        if self._torn is not None:
            buffers.append(memoryview(self._torn.data)[self._torn_sent :])
        if self._inserted:
            buffers.append(self._inserted)
        chunk, offset, size, end = self._chunk, self._offset, 0, self.end
        while chunk is not None and size < MAX_SEND_SIZE and len(buffers) < MAX_BUFFERS:
            if chunk.first >= end:
                break
            if offset < len(chunk.data):
                buffers.append(memoryview(chunk.data)[offset:] if offset else chunk.data)
                size += len(chunk.data) - offset
            chunk, offset = chunk.next, 0
        return buffers

    def advance(self, sent: int) -> None:
        """Note that the socket took the first `sent` bytes of `buffers`."""
        if self._torn is not None:
            part = min(sent, len(self._torn.data) - self._torn_sent)
            self._torn_sent += part
            sent -= part
            if self._torn_sent == len(self._torn.data):
                self._drop_torn()
        if self._inserted and sent:
            part = min(sent, len(self._inserted))
            self._inserted = self._inserted[part:]
            sent -= part
        if not sent:
            return
        chunk, offset = self._chunk, self._offset + sent
        assert chunk is not None  # noqa: S101 - `buffers` returned bytes of a chunk
        while offset > len(chunk.data) and chunk.next is not None:
            offset -= len(chunk.data)
            chunk = chunk.next
        self._move(chunk, offset)

    def insert(self, record: bytes) -> None:
        """Send `record` at the next boundary between two records."""
        if self._chunk is not None:
            self._offset = self._tear(self._chunk)
        self._inserted += record

    def send_first(self, remainder: bytes) -> None:
        """Send the remainder of what the socket took in part; the cursor must be new."""
        self._hold(TornRecord(remainder), 0)

    def stop(self) -> None:
        """Send no records but those that are in the ring now."""
        self._stop_seq = self._ring.next_seq

    def stop_with(self, record: bytes) -> None:
        """Send `record` at the next boundary between two records, and nothing after it."""
        self.leave()
        self._inserted += record
        self._stop_seq = self._next_seq

    def evicted(self) -> None:
        """Leave the chunk, which was evicted; note whether records are lost."""
        chunk = self._chunk
        assert chunk is not None  # noqa: S101 - the chunk has this cursor
        self.leave()
        if self.lost:
            self._ring.store.losing.add(self._owner)
        elif chunk.next is not None and chunk.next.first < self.end:
            # The loss begins when the next chunk is evicted.
            self._move(chunk.next, 0)

    def leave(self) -> None:
        """Leave the chunk; keep the record that was sent in part, if any."""
        chunk = self._chunk
        if chunk is not None:
            end = self._tear(chunk)
            self._next_seq = chunk.first + chunk.whole_before(end)
            self._chunk = None
            chunk.cursors.discard(self)

    def detach(self) -> None:
        """Leave the ring; the cursor must not be used afterwards."""
        if self._chunk is not None:
            self._chunk.cursors.discard(self)
        self._drop_torn()
        self._ring.remove_place(self)

    def _tear(self, chunk: Chunk) -> int:
        """Hold the record that was sent in part; return the offset of its end in the chunk."""
        end = chunk.boundary(self._offset)
        if end != self._offset:
            self._hold(*chunk.torn_record(self._offset))
        return end

    def _hold(self, torn: TornRecord, sent: int) -> None:
        self._torn, self._torn_sent = torn, sent
        self._ring.store.hold(torn)

    def _drop_torn(self) -> None:
        if self._torn is not None:
            self._ring.store.drop(self._torn)
            self._torn, self._torn_sent = None, 0

    def _move(self, chunk: Chunk, offset: int) -> None:
        if self._chunk is not None:
            self._chunk.cursors.discard(self)
        self._chunk, self._offset = chunk, offset
        chunk.cursors.add(self)

    def _enter_ring(self) -> None:
        """Announce the records that were evicted; go to the oldest chunk if it has a next one."""
        lost = self.lost
        if lost:
            self._inserted = self._gap(lost)
            self._ring.store.losing.add(self._owner)
            self.announced += lost
            self._next_seq += lost
        if self._ring.oldest is not None and self._next_seq < self.end:
            self._move(self._ring.oldest, 0)
