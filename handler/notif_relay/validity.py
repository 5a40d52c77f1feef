# SPDX-License-Identifier: Apache-2.0
"""Finds notifications that the relay would reject, in the service that emits them.

The relay logs the lines that it rejects, but the relay's log does not show where in the service
they come from. Python's JSON writer produces such lines: it writes NaN and infinity, which are not
JSON, and any value as ``event_type``.

A complete check takes several times as long as sending. Therefore ``UsualForm`` first looks for the
form in which the log driver writes notifications, with ``event_type`` and ``priority`` as strings
and without a text that may be NaN or infinity. Only other notifications are decoded. A text that
has this form although no JSON writer wrote it may still be rejected by the relay. The driver and
the transport write the JSON themselves and need no ``UsualForm``; see ``messaging/producer.py``.
"""

import re
from typing import Any

from notif_relay import records
from notif_relay.errors import InvalidRecord
from notif_relay.escaping import MAX_LENGTH, printable

_MAX_HEADS = 1000
"""Maximum number of heads that are remembered; a service has a few hundred types of event."""

_MAX_DEPTH = 10_000
"""Levels of nesting that no relay accepts more of; with Python 3.11, it accepts about 990."""

_find_brackets = re.compile(r'"(?:[^"\\]|\\.)*"?|[][{}]').finditer
"""Finds brackets, and strings as a whole, so that brackets in strings do not count."""

_match_head = re.compile(
    r'\{(?:"message_id": "[^"\\]*(?=",)|(?="e))'  # an id differs in every notification
    r'((?:", "publisher_id": "[^"\\]{0,255}", )?'
    r'"event_type": "(?!notif_relayd\.)[^"\\]{0,255}", "priority": "[^"\\]{0,255}"[,}])'
).match

_NO_HEAD = 0, "none", 0
"""A head that no text has, because it has no characters between 0 and 0."""

_find_event_type = re.compile(r'"event_type":\s*("(?:[^"\\]|\\.){0,255}"|[^\s",{[]{1,60})').search


class UsualForm:
    """Recognizes notifications in the form of the log driver.

    The head of a notification, from ``publisher_id`` to ``priority``, is the same in most
    notifications of one type. The last head of each type is remembered, because comparing it takes
    a tenth of the time of the regular expression. Then the text before it, an opening brace and
    ``message_id``, is not examined.
    """

    __slots__ = ("_heads", "last")

    def __init__(self) -> None:
        self.last = _NO_HEAD
        """The head of the last notification that matched: its start, its text and its end."""
        self._heads: dict[str, tuple[int, str, int]] = {}

    def matches(self, notification: str, kind: str = "") -> bool:
        """Return whether a notification has this form, so that the relay accepts it.

        Args:
            notification: the JSON text.
            kind: a text that notifications with the same head have in common.
        """
        start, head, end = found = self._heads.get(kind, _NO_HEAD)
        if notification[start:end] != head:
            match = _match_head(notification)
            if match is None:
                return False
            end = match.end()
            found = match.start(1), match[1], end
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[kind] = found
        self.last = found
        rest = notification[end:]
        # Single characters are found in a tenth of the time of words.
        return (
            notification[-1] == "}"
            and ("N" not in rest or "NaN" not in rest)
            and ("I" not in rest or "Infinity" not in rest)
        )


def check(notification: str) -> None:
    """Decode a notification and check it like the relay.

    The size is not checked. A notification that is nested too deeply for Python, but not for every
    relay, is not checked either.

    Raises:
        InvalidRecord: the relay would reject the notification.
    """
    try:
        record = notification.removesuffix("\n").replace("\n", " ").encode()
        fields = records.decode_pairs(record)
    except RecursionError:
        if _is_nested_deeper(notification, _MAX_DEPTH):
            raise InvalidRecord("it is nested too deeply") from None
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


def _is_nested_deeper(notification: str, limit: int) -> bool:
    depth = 0
    for match in _find_brackets(notification):
        if match[0] in ("[", "{"):
            depth += 1
            if depth > limit:
                return True
        elif match[0] in ("]", "}"):
            depth -= 1
    return False


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
    return f"notification that begins with {_quoted(notification[:MAX_LENGTH])}"


def _quoted(value: Any) -> str:
    if isinstance(value, tuple):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return printable(repr(value))
