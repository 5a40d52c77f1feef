# SPDX-License-Identifier: Apache-2.0
"""The records that a member of a group gets at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from notif_relayd.fanout.chunk import Chunk
from notif_relayd.fanout.cursor import MAX_BUFFERS, MAX_SEND_SIZE
from notif_relayd.fanout.groups.member import NOTHING_MISSING, Missing
from notif_relayd.fanout.groups.run import Run, append, by_kind

MAX_EXAMINED = 1024
"""Records whose filter is evaluated for one hand-out, about 1 ms."""

MAX_REDELIVERED_SIZE = 64 * 1024
"""Bytes of redelivered records after which no further one is added to a hand-out. The records stay
with the member even if its socket takes only a part of them, because their number was announced."""


@dataclass(slots=True)
class Draft:
    """A hand-out that is being put together."""

    room: int
    """Number of records that may be added."""
    data: list[bytes | memoryview] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    size: int = 0
    examined: int = 0
    """Number of records of which the filter was evaluated."""

    @property
    def full(self) -> bool:
        """Whether no more records should be added."""
        return (
            self.room <= 0
            or self.size >= (MAX_REDELIVERED_SIZE if self.attempts else MAX_SEND_SIZE)
            or len(self.data) >= MAX_BUFFERS
            or self.examined >= MAX_EXAMINED
        )

    @property
    def attempts(self) -> int:
        """Number of earlier attempts of the records, which are handed out with others alike."""
        return self.runs[0].attempts if self.runs else 0

    def accepts(self, run: Run) -> bool:
        """Return whether a run may be handed out together with the others."""
        if not self.runs:
            return True
        return run.attempts == self.attempts and not run.is_suspect

    def add(self, chunk: Chunk, run: Run, *, windowed: bool) -> None:
        """Add records of one chunk."""
        part = chunk.part(run.first - chunk.first, run.length)
        self.data.append(part)
        self.size += len(part)
        self.room -= run.length
        for each in by_kind(chunk, run) if windowed else (run,):
            append(self.runs, each)


class HandOut(NamedTuple):
    """What is to be sent to a member: gap records of the relay, or records of producers."""

    head: bytes
    """Records of the relay, which are sent first."""
    data: list[bytes | memoryview]
    """The records of producers."""
    runs: list[Run]
    """The same records."""
    missing: Missing = NOTHING_MISSING
    """What `head` announces as missing."""
