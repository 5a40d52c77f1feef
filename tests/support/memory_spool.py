# SPDX-License-Identifier: Apache-2.0
"""A spool in memory, which fails on command and knows which records its gaps count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from notif_relayd_bridge.errors import SpoolError


@dataclass
class MemorySpool:
    """The rows of a spool; a pipeline that is restarted gets the same object again."""

    max_rows: int = 1_000_000
    last: int = 0
    broken: bool = False
    rows: dict[int, list[bytes]] = field(default_factory=dict)
    """The records of each row: one, or those that a gap counts."""
    gaps: set[int] = field(default_factory=set)
    """The rows that are gaps."""

    @property
    def count(self) -> int:
        return len(self.rows)

    def report(self) -> dict[str, object]:
        return {"records": self.count}

    def add(self, records: Sequence[bytes], keep: int) -> None:
        self._check()
        for record in records:
            self.last += 1
            self.rows[self.last] = [record]
        if len(self.rows) <= self.max_rows:
            return
        # One row more than necessary, because the gap takes the place of the last one.
        excess = [row for row in sorted(self.rows) if row > keep]
        excess = excess[: len(self.rows) - self.max_rows + 1]
        if excess:
            self.rows[excess[-1]] = [each for row in excess for each in self.rows.pop(row)]
            self.gaps = {each for each in self.gaps if each in self.rows} | {excess[-1]}

    def head(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        found = [row for row in sorted(self.rows) if row > after][:limit]
        return [(row, self._record(row)) for row in found]

    def remove_up_to(self, row: int) -> None:
        self._check()
        self.rows = {each: value for each, value in self.rows.items() if each > row}

    def _record(self, row: int) -> bytes:
        records = self.rows[row]
        return counting(row, records) if row in self.gaps else records[0]

    def _check(self) -> None:
        if self.broken:
            raise SpoolError("no space left on device")


def counting(row: int, records: Sequence[bytes]) -> bytes:
    """Return the record of a gap in the place of these records."""
    lost = [json.loads(each) for each in records]
    return json.dumps({"row": row, "lost": lost}).encode() + b"\n"
