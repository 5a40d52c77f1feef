# SPDX-License-Identifier: Apache-2.0
"""Prepares a record of a broker for the relay.

Each client that may write to the broker chooses the content. The relay would reject and only count
an invalid record, so it is checked here, where a gap record can take its place.
"""

from __future__ import annotations

import json

from notif_relay import records
from notif_relayd_bridge.marker import mark

_MARGIN = 64
"""Levels of nesting less than Python can decode here. The relay decodes as deeply as its own stack
leaves room for, and only counts a record that it cannot decode."""

_MIN_DEPTH = 800
"""Levels of nesting that Python decodes in any case."""


class UnreadableRecordError(Exception):
    """The relay would reject the record; the message states why."""


def prepare(record: bytes, name: str, max_size: int) -> bytes:
    """Return a record as it is written to the relay: in one line, and marked.

    Args:
        record: a JSON object, not necessarily valid.
        name: the name of the bridge.
        max_size: maximum size of the result in bytes.

    Raises:
        UnreadableRecordError: the relay would reject the record.
    """
    if len(record) > max_size:
        raise UnreadableRecordError(f"it is larger than {max_size} bytes")
    fields = _decode(record)
    for key in ("event_type", "priority"):
        values = [value for each, value in fields if each == key]
        if not values or any(type(value) is not str for value in values):
            raise UnreadableRecordError(f"it is not a JSON object with the string {key}")
    if b"\n" in record:  # In JSON, a newline can only be white space.
        record = record.strip().replace(b"\n", b" ")
    marked = mark(record, name)
    if records.may_be_reserved(record):
        marked = _checked_gap(marked, fields, name)
    if len(marked) > max_size:
        raise UnreadableRecordError(f"it is larger than {max_size} bytes with the mark")
    return marked


def lost(count: int, name: str) -> bytes:
    """Return the gap record for messages that cannot be brought.

    Args:
        count: number of messages.
        name: the name of the bridge.
    """
    return mark(records.gap(count, "undeliverable"), name)


def _decode(record: bytes) -> records.Pairs:
    try:
        if record.count(b"[") + record.count(b"{") > _MIN_DEPTH:
            records.decode_pairs(b"[" * _MARGIN + record + b"]" * _MARGIN)
        return records.decode_pairs(record)
    except json.JSONDecodeError as error:
        raise UnreadableRecordError(f"it is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise UnreadableRecordError("it is nested too deeply") from error
    except ValueError as error:
        raise UnreadableRecordError("it is not JSON in UTF-8") from error


def _checked_gap(marked: bytes, fields: records.Pairs, name: str) -> bytes:
    """Return a record that the relay accepts, if any event type of the record is reserved.

    Args:
        marked: the record with the mark.
        fields: its fields without the mark.
        name: the name of the bridge.
    """
    event_types = [value for key, value in fields if key == "event_type"]
    if not any(each.startswith(records.EVENT_TYPE_PREFIX) for each in event_types):
        return marked
    report = (
        records.read_gap(records.MAX_GAP_SIZE, fields) if event_types == [records.GAP] else None
    )
    if report is None:
        raise UnreadableRecordError("only the relay may use its event type")
    if report.reason not in records.PRODUCER_REASONS:  # From a later version: the number counts.
        return mark(records.gap(report.dropped, "undeliverable"), name)
    if records.read_gap(len(marked), records.decode_pairs(marked)) is None:
        return mark(records.gap(report.dropped, report.reason), name)  # type: ignore[arg-type]
    return marked
