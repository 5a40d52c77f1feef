# SPDX-License-Identifier: Apache-2.0
"""Formats of a record: a line, JSON, or a template.

A producer can send any fields and values. Therefore no format fails because of the content of a
record or a missing field, and every character that could control a terminal or that the output
cannot show is escaped. The exception is `json`, which is for programs and returns the record
unchanged; `tail` escapes it in a terminal.
"""

import contextlib
import datetime as dt
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from notif_relay import records
from notif_relayctl.display import cropped, shown, shown_json, width
from notif_relayctl.errors import CtlError
from notif_relayd.errors import nearest

Format = Callable[[bytes], str]
"""Formats one record, without a newline at the end."""

Fields = Mapping[str, Any]

SHORT = "short"

FORMATS = (SHORT, "json", "json-pretty")
"""The formats that have a name."""

ABSENT = "-"
"""Text of a field that is missing or null."""

FIELD = re.compile(r"(?P<name>[^\W\d]\w*)(?P<keys>(\[[^\[\]]+\])*)")
"""A name and keys in brackets. Attributes are excluded: they give access to Python objects."""

TEXT_SPEC = re.compile(
    r"(?P<align>(?:.?[<>^])?)(?P<zero>0?)(?P<width>\d*)(?:\.(?P<precision>\d+))?s?", re.DOTALL
)
"""What format() accepts for text."""


def named(name: str) -> Format:
    """Return the format that has this name, or the template.

    Raises:
        CtlError: `name` is neither a format nor a valid template.
    """
    if name == "json":
        return _unchanged
    if name == "json-pretty":
        return partial(_decoded, as_pretty_json)
    if name == SHORT:
        return partial(_decoded, partial(_or_gap, as_line))
    if "{" in name:
        return partial(_decoded, partial(_or_gap, Template(name)))
    raise CtlError(
        f"unknown format {name!r}: use {', '.join(FORMATS)}, "
        "or a template such as '{timestamp} {event_type} {payload[uuid]}'"
        + (f"; did you mean {meant}?" if (meant := nearest(name, FORMATS)) else "")
    )


def _unchanged(record: bytes) -> str:
    # A record that was truncated when a relay was killed may end within a character.
    return record.decode(errors="surrogateescape").removesuffix("\n")


def _decoded(form: Callable[[Fields], str], record: bytes) -> str:
    with contextlib.suppress(ValueError, RecursionError):  # also for the limits of Python
        fields = json.loads(record)
        if isinstance(fields, dict):
            return form(fields)
    return shown(_unchanged(record))


def as_line(fields: Fields) -> str:
    """Return one line: timestamp, priority, publisher_id, event_type and payload."""
    return (
        f"{_local_time(fields.get('timestamp'))} {formatted(_text(fields.get('priority')), '<5')} "
        f"{_text(fields.get('publisher_id'))} {_text(fields.get('event_type'))} "
        f"{_text(fields.get('payload'))}"
    )


def as_pretty_json(fields: Fields) -> str:
    """Return JSON on several lines."""
    lines = json.dumps(fields, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(map(shown_json, lines))


def _or_gap(form: Callable[[Fields], str], fields: Fields) -> str:
    """Return a gap record as a line that reports the loss, and any other record in this form."""
    payload = fields.get("payload")
    if fields.get("event_type") != records.GAP or not isinstance(payload, dict):
        return form(fields)
    dropped = payload.get("dropped")
    number = "an unknown number" if dropped is None else _text(dropped)
    return f"-- gap: {number} dropped ({_text(payload.get('reason'))}) --"


class Template(string.Formatter):
    """Text with fields in braces, for example ``{event_type:<30} {payload[ips][0][address]}``.

    A width or a precision counts the columns of a terminal.

    Raises:
        CtlError: the template is malformed.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        try:
            self({})
        except (ValueError, MemoryError, OverflowError) as error:
            reason = str(error) or "the width is too large"  # MemoryError has no message.
            raise CtlError(f"invalid template {template!r}: {reason}") from None

    def __call__(self, fields: Fields) -> str:
        return self.vformat(self._template, (), fields)

    def get_field(
        self, field_name: str, _args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[str, str]:
        """Return a field as text, so that a width is accepted for values of all types."""
        parts = FIELD.fullmatch(field_name)
        if parts is None:
            raise ValueError(f"{{{field_name}}} is neither {{name}} nor {{name[key]}}")
        value = kwargs.get(parts["name"])
        for key in re.findall(r"[^\[\]]+", parts["keys"]):
            value = _item(value, key)
        return _text(value), parts["name"]

    def format_field(self, value: str, format_spec: str) -> str:
        """Return a field with the alignment, width and precision of the format."""
        return formatted(value, format_spec)


def formatted(text: str, spec: str) -> str:
    """Return the text as `format` does, but with width and precision in columns."""
    parts = TEXT_SPEC.fullmatch(spec)
    if text.isascii() or parts is None:
        return format(text, spec)
    if parts["precision"]:
        text = cropped(text, int(parts["precision"]))
    characters = int(parts["width"] or 0) - width(text) + len(text)
    return format(text, f"{parts['align']}{parts['zero']}{max(0, characters)}s")


def _item(value: object, key: str) -> object:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
        return value[int(key)]
    return None


def _text(value: object) -> str:
    if value is None:
        return ABSENT
    return shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _local_time(timestamp: object) -> str:
    """Return local time in the format of oslo.log, for comparison with the logs of services."""
    try:
        moment = dt.datetime.fromisoformat(str(timestamp))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.timezone.utc)
        return moment.astimezone().replace(tzinfo=None).isoformat(" ", "milliseconds")
    except (ValueError, OverflowError):
        return _text(timestamp)
