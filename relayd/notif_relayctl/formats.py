# SPDX-License-Identifier: Apache-2.0
"""How relayctl shows a record: as a line for people, as JSON, or by a template.

Whoever may send can put anything in a record. So nothing here fails for what a record holds or
lacks, and what is shown to people has every character escaped that could control a terminal.
Only `json` is for programs, and gives the record as it came; a terminal gets it escaped as well.
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
from notif_relayctl.errors import CtlError
from notif_relayd.escaping import printable

Format = Callable[[bytes], str]
"""Shows one record, without a newline at the end."""

Fields = Mapping[str, Any]

SHORT = "short"

FORMATS = (SHORT, "json", "json-pretty")
"""Those that have a name."""

ABSENT = "-"
"""Stands for a field that is missing or null."""

FIELD = re.compile(r"(?P<name>[^\W\d]\w*)(?P<keys>(\[[^\[\]]+\])*)")
"""A name and keys in brackets. Attributes stay out, since they would lead out of the record."""


def named(name: str) -> Format:
    """The format of this name, or else the template that it is.

    Raises:
        CtlError: it is neither.
    """
    if name == "json":
        return _as_it_came
    if name == "json-pretty":
        return partial(_shown, as_pretty_json)
    if name == SHORT:
        return partial(_shown, partial(_told, as_line))
    if "{" in name:
        return partial(_shown, partial(_told, Template(name)))
    raise CtlError(
        f"there is no format {name!r}: give {', '.join(FORMATS)}, "
        "or a template such as '{timestamp} {event_type} {payload[uuid]}'"
    )


def _as_it_came(record: bytes) -> str:
    # A record that was torn when a relay was killed may end within a character.
    return record.decode(errors="surrogateescape").removesuffix("\n")


def _shown(form: Callable[[Fields], str], record: bytes) -> str:
    with contextlib.suppress(ValueError, RecursionError):  # among them are Python's own limits
        fields = json.loads(record)
        if isinstance(fields, dict):
            return form(fields)
    return printable(_as_it_came(record))


def as_line(fields: Fields) -> str:
    """When, how urgent, who, what, and the payload."""
    return (
        f"{_local_time(fields.get('timestamp'))} {_text(fields.get('priority')):<5} "
        f"{_text(fields.get('publisher_id'))} {_text(fields.get('event_type'))} "
        f"{_text(fields.get('payload'))}"
    )


def as_pretty_json(fields: Fields) -> str:
    """JSON over many lines."""
    lines = json.dumps(fields, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(map(printable, lines))


def _told(form: Callable[[Fields], str], fields: Fields) -> str:
    """As a line of its own where notifications are missing, else in this form."""
    payload = fields.get("payload")
    if fields.get("event_type") != records.GAP or not isinstance(payload, dict):
        return form(fields)
    dropped = payload.get("dropped")
    number = "an unknown number" if dropped is None else _text(dropped)
    return f"-- gap: {number} dropped ({_text(payload.get('reason'))}) --"


class Template(string.Formatter):
    """Text with fields between braces: `{event_type:<30} {payload[fixed_ips][0][address]}`.

    Raises:
        CtlError: it is no template.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        try:
            self({})
        except (ValueError, MemoryError, OverflowError) as error:
            raise CtlError(f"the template {template!r} cannot be used: {error}") from None

    def __call__(self, fields: Fields) -> str:
        return self.vformat(self._template, (), fields)

    def get_field(
        self, field_name: str, _args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[str, str]:
        """The text of one field: always text, so that a width fits whatever it is."""
        parts = FIELD.fullmatch(field_name)
        if parts is None:
            raise ValueError(f"{{{field_name}}} is neither {{name}} nor {{name[key]}}")
        value = kwargs.get(parts["name"])
        for key in re.findall(r"[^\[\]]+", parts["keys"]):
            value = _item(value, key)
        return _text(value), parts["name"]


def _item(value: object, key: str) -> object:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
        return value[int(key)]
    return None


def _text(value: object) -> str:
    if value is None:
        return ABSENT
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _local_time(timestamp: object) -> str:
    """As oslo.log writes it, to be compared with the services' logs."""
    try:
        moment = dt.datetime.fromisoformat(str(timestamp))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.timezone.utc)
        return moment.astimezone().replace(tzinfo=None).isoformat(" ", "milliseconds")
    except (ValueError, OverflowError):
        return _text(timestamp)
