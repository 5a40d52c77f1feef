# SPDX-License-Identifier: Apache-2.0
"""A spool behaves like a list, whatever is done in whatever order.

The record in a row has the number of the row. So the model is a list of the rows that may exist,
and the gaps must count exactly those that do not.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from notif_relayd_bridge.spool.file import PAGE_SIZE
from support.records import numbered_record
from support.spool import FAST, MAX_AGE, Clock, contents, copy_killed, open_spool, rows

MAX_BYTES = 40 * PAGE_SIZE

sizes = strategies.one_of(
    strategies.integers(100, 500), strategies.sampled_from([1000, 2050, 4040, 4070, 9000, 50_000])
)
parts = strategies.floats(0, 1)


class SpoolMachine(RuleBasedStateMachine):
    """Uses a spool as a pipeline does: rows that were read are sent, confirmed or sent again."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(dir=FAST))
        self.directory = self.base / "0"
        self.directory.mkdir()
        self.clock = Clock()
        self.spool = open_spool(self.directory, max_bytes=MAX_BYTES, clock=self.clock)
        self.times: dict[int, float] = {}
        """The rows that were added, and the latest time before."""
        self.removed = 0
        self.sent: list[tuple[int, bytes]] = []
        """Rows that were read and not removed, which must not change."""
        self.latest = 0.0
        self.most_kept = 0
        """Maximum size of the rows in `sent`."""

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.base)

    @property
    def cursor(self) -> int:
        return self.sent[-1][0] if self.sent else self.removed

    @rule(sizes=strategies.lists(sizes, min_size=1, max_size=12), early=parts)
    def add(self, sizes: list[int], early: float) -> None:
        first = self.spool.last + 1
        self.times |= {first + index: self.latest for index in range(len(sizes))}
        records = [numbered_record(first + index, size) for index, size in enumerate(sizes)]
        # Some of them are sent already if everything before them is.
        count = int(early * len(sizes)) if self.cursor == self.spool.last else 0
        self.spool.add(records, self.cursor + count)
        if count:
            self.sent += self.spool.head(self.cursor, count)
            assert [record for _, record in self.sent[-count:]] == records[:count]

    @rule(limit=strategies.integers(1, 20))
    def send(self, limit: int) -> None:
        found = self.spool.head(self.cursor, limit)
        assert len(found) <= limit
        assert found or self.cursor == self.spool.last or not self.spool.count
        self.sent += found

    @rule(part=parts)
    def confirm(self, part: float) -> None:
        count = int(part * len(self.sent))
        if count:
            self.removed = self.sent[count - 1][0]
            self.spool.remove_up_to(self.removed)
            del self.sent[:count]

    @rule()
    def fail(self) -> None:
        self.sent.clear()

    @rule(seconds=strategies.sampled_from([1.0, MAX_AGE / 3, MAX_AGE, -MAX_AGE]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.latest = max(self.latest, self.clock.now)

    @rule()
    def restart(self) -> None:
        self.sent.clear()
        self.spool.close()
        self.spool = open_spool(self.directory, max_bytes=MAX_BYTES, clock=self.clock)

    @rule()
    def kill(self) -> None:
        copy = self.base / str(int(self.directory.name) + 1)
        copy_killed(self.directory, copy)
        self.spool.close()
        shutil.rmtree(self.directory)
        self.directory = copy
        self.sent.clear()
        self.spool = open_spool(self.directory, max_bytes=MAX_BYTES, clock=self.clock)

    @invariant()
    def rows_are_complete_and_in_order(self) -> None:
        found = [*self.sent, *rows(self.spool, self.cursor)]
        position = self.removed
        for (row, _), content in zip(found, contents(found), strict=True):
            if isinstance(content, str):
                number, reason = content.split()
                assert row == position + int(number)
                assert reason in {"spool_full", "spool_expired"}
            else:
                assert content == row == position + 1
            position = row
        assert position == max(self.times, default=0) == self.spool.last
        assert self.spool.count == len(found)
        assert self.spool.size == sum(len(record) for _, record in found)

    @invariant()
    def old_rows_are_gone(self) -> None:
        found = rows(self.spool, self.cursor)
        for (row, _), content in zip(found, contents(found), strict=True):
            if not isinstance(content, str):
                assert self.clock.now - self.times[row] <= MAX_AGE

    @invariant()
    def file_is_bounded(self) -> None:
        kept = sum(len(record) + 2 * PAGE_SIZE for _, record in self.sent)
        self.most_kept = max(self.most_kept, kept)
        size = (self.directory / "spool").stat().st_size
        assert size <= MAX_BYTES + self.most_kept + PAGE_SIZE


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=50, stateful_step_count=30)
