# SPDX-License-Identifier: Apache-2.0
"""Counts the records that a gap replaces."""

from notif_relay import records


class Missing:
    """Records that are replaced by one gap."""

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        """Total size of the records."""
        self.dropped = 0
        """Number of records that are not gap records themselves."""
        self.number: int | None = 0
        """Number of missing records, including those of gap records; None if it is unknown."""

    def add(self, size: int, record: bytes | None) -> None:
        """Add a record.

        Args:
            size: its size in bytes.
            record: may be None if it is larger than `MAX_GAP_SIZE`.
        """
        self.rows += 1
        self.bytes += size
        report = None if record is None else records.gap_report(record)
        if report is None:
            self.dropped += 1
        number = 1 if report is None else report.dropped
        if self.number is None or number is None or self.number + number > records.MAX_DROPPED:
            self.number = None
        else:
            self.number += number
