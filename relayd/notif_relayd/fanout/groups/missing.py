# SPDX-License-Identifier: Apache-2.0
"""The numbers of missing records that a group has to announce."""

from __future__ import annotations

import uuid
from typing import NamedTuple

from notif_relay import records
from notif_relayd.records.framing import split


class Missing(NamedTuple):
    """Missing records, of which at least one number is not 0."""

    lost: int = 0
    """Records that the ring lacks."""
    undeliverable: int = 0
    """Records that too many members have left unfinished, at most `MAX_DROPPED`."""
    unknown: int = 0
    """Numbers of such records that are not known."""
    attempts: int = 0
    """Number of members that left without finishing a gap record that announced a part of them."""
    message_id: str = ""
    """That of the gap record that has announced exactly these records; empty without one."""

    def plus(self, other: Missing) -> Missing:
        """Return the sum."""
        undeliverable, unknown = self.undeliverable, self.unknown + other.unknown
        if undeliverable + other.undeliverable > records.MAX_DROPPED:
            unknown += 1
        else:
            undeliverable += other.undeliverable
        attempts = max(self.attempts, other.attempts)
        return Missing(self.lost + other.lost, undeliverable, unknown, attempts)

    def split(self) -> tuple[Missing, Missing | None]:
        """Return what one gap record announces, and the remainder, if any."""
        if self.lost:
            one, others = Missing(lost=self.lost), self._replace(lost=0)
        elif self.undeliverable:
            one, others = Missing(undeliverable=self.undeliverable), self._replace(undeliverable=0)
        else:
            one, others = Missing(unknown=self.unknown), self._replace(unknown=0)
        one = one._replace(attempts=self.attempts, message_id=self.message_id or str(uuid.uuid4()))
        return one, others if any(others[:3]) else None

    @property
    def record(self) -> bytes:
        """The gap record, after `split`."""
        if self.lost:
            return records.gap(self.lost, "slow_subscriber", self.message_id)
        return records.gap(self.undeliverable or None, "undeliverable", self.message_id)


def undeliverable(data: bytes, count: int) -> Missing | None:
    """Return what is missing if records are not handed out again, or `None` for nothing.

    A gap record among them stands for the records that it reports.

    Args:
        data: the records.
        count: their number.
    """
    reports = map(records.gap_report, split(data)) if records.may_be_reserved(data) else ()
    gaps = [report.dropped for report in reports if report is not None]
    missing = Missing(undeliverable=count - len(gaps))
    for dropped in gaps:
        missing = missing.plus(
            Missing(unknown=1) if dropped is None else Missing(undeliverable=dropped)
        )
    return missing if any(missing) else None
