# SPDX-License-Identifier: Apache-2.0
"""Finds notifications that the relay would reject, in the service that emits them.

The oslo.messaging driver and transport use it. The logging handler does not, because the check
would take a fifth of the time of a call; the relay finds and logs what a handler sends.

The relay logs the lines that it rejects, but the relay's log does not show where in the service
they come from. Python's JSON writer produces such lines: it writes NaN and infinity, which are not
JSON, and any value as ``event_type``.

A complete check takes several times as long as sending. Therefore ``is_usual`` first looks for the
form in which the log driver writes notifications, with ``event_type`` and ``priority`` as strings
and without a text that may be NaN or infinity. Only other notifications are decoded. A text that
has this form although no JSON writer wrote it may still be rejected by the relay.
"""

import re
from typing import Any

from notif_relay import records
from notif_relay.errors import InvalidRecord

_MAX_LENGTH = 100
"""Maximum number of characters of a value of a notification that are quoted in a message."""

_match_head = re.compile(
    r'\{(?:"message_id": "[^"\\]*", "publisher_id": "[^"\\]*", )?'
    r'"event_type": "(?!notif_relayd\.)[^"\\]*", "priority": "[^"\\]*"[,}]'
).match

_find_event_type = re.compile(r'"event_type":\s*("(?:[^"\\]|\\.){0,255}"|[^\s",{[]{1,60})').search


def is_usual(notification: str) -> bool:
    """Return whether the relay accepts a notification, as far as this is certain at first sight."""
    return (
        _match_head(notification) is not None
        and notification[-1] == "}"
        and "NaN" not in notification
        and "Infinity" not in notification
    )


def check(notification: str) -> None:
    """Decode a notification and check it like the relay.

    The size is not checked. A notification that is nested too deeply for Python is not checked
    either, because the relay may be able to decode it.

    Raises:
        InvalidRecord: the relay would reject the notification.
    """
    try:
        record = notification.removesuffix("\n").replace("\n", " ").encode()
        fields = records.decode_pairs(record)
    except RecursionError:
        return
    except UnicodeEncodeError as error:
        raise InvalidRecord(f"it cannot be encoded as UTF-8: {error.reason}") from None
    except ValueError as error:
        raise InvalidRecord(f"it is not JSON: {error}") from None
    for name in ("event_type", "priority"):
        values = [value for key, value in fields if key == name]
        if not values:
            raise InvalidRecord(f"it is not a JSON object with {name}")
        for value in values:
            if type(value) is not str:
                raise InvalidRecord(f"{name} is not a string, but {_quoted(value)}")
    _check_reserved(len(record) + 1, fields)


def _check_reserved(size: int, fields: records.Pairs) -> None:
    event_types = [value for key, value in fields if key == "event_type"]
    reserved = [value for value in event_types if value.startswith(records.EVENT_TYPE_PREFIX)]
    if not reserved:
        return
    if event_types != [records.GAP]:
        raise InvalidRecord(f"event_type {_quoted(reserved[0])} is reserved for the relay")
    gap = records.read_gap(size, fields)
    if gap is None or gap.reason not in records.PRODUCER_REASONS:
        raise InvalidRecord("it is a malformed gap record")


def describe(notification: str) -> str:
    """Return a short text in one line that identifies a notification, for the log."""
    found = _find_event_type(notification, 0, 4096)
    if found is not None:
        return f"notification {printable(found[1])}"
    return f"notification that begins with {_quoted(notification[:_MAX_LENGTH])}"


def printable(text: str) -> str:
    """Return a text in one line, without control characters, and shortened if it is long."""
    if len(text) > _MAX_LENGTH:
        text = text[: _MAX_LENGTH - 3] + "..."
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _quoted(value: Any) -> str:
    if isinstance(value, tuple):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return printable(repr(value))
