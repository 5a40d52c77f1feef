# SPDX-License-Identifier: Apache-2.0
"""Records for tests: how to make them, and how to check the records of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable

from notif_relay import Notification


def record(event_type: str = "test.event", priority: str = "INFO", **fields: object) -> bytes:
    """Return a well-formed record."""
    return json.dumps({"event_type": event_type, "priority": priority, **fields}).encode() + b"\n"


def numbered_record(number: int, size: int = 1024) -> bytes:
    """Return a record of exactly `size` bytes with the field `number`."""
    empty = record(number=number, payload="")
    return record(number=number, payload="x" * (size - len(empty)))


def numbered_text(number: int, size: int = 0) -> str:
    """Return a numbered notification as the log driver formats it.

    Args:
        number: Value of the field `number`.
        size: Size of the resulting record in bytes; a record without payload may be larger.
    """
    return numbered_record(number, size).decode().rstrip("\n")


def record_number(notification: Notification) -> int:
    """Return the field `number` of a record that a test made."""
    value = json.loads(notification.raw)["number"]
    assert isinstance(value, int)
    return value


def is_gap(line: bytes) -> bool:
    """Return whether a line is a gap record."""
    return b'"notif_relayd.gap"' in line and json.loads(line)["event_type"] == "notif_relayd.gap"


def check_gaps(lines: Iterable[bytes]) -> tuple[int, int, bool]:
    """Check that gap records account for every number that is missing from a producer's stream.

    Returns:
        The number of notifications that the stream accounts for, the number of notifications in
        it, and whether its last gap record announces an unknown number of lost records.
    """
    expected = present = 0
    unknown = False
    for line in lines:
        assert line.endswith(b"\n"), line[-100:]
        fields = json.loads(line)
        if fields.get("event_type") == "notif_relayd.gap":
            dropped = fields["payload"]["dropped"]
            unknown = unknown or dropped is None
            expected += dropped or 0
            continue
        if unknown:
            assert fields["number"] >= expected
        else:
            assert fields["number"] == expected
        expected, unknown = fields["number"] + 1, False
        present += 1
    return expected, present, unknown
