# SPDX-License-Identifier: Apache-2.0
"""Names of topics and subjects, from a template such as ``notifications.{event_type}``.

Producers choose the values. What they contain must not lead to a name that the broker refuses, as
that would stop the bridge, nor to one outside the part of the namespace that the template names.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from notif_relay import Notification
from notif_relay.priorities import PRIORITIES
from notif_relayd_bridge.errors import StartError

LOWER_PRIORITIES = frozenset(each.lower() for each in PRIORITIES)
"""The priorities as they are in names. A record may have any other, which would be a name of its
own: it is ``other``."""


def event_type(notification: Notification) -> str:
    """Return the type of the event."""
    return notification.event_type


def priority(notification: Notification) -> str:
    """Return the priority in lower case; ``other`` for one that oslo.messaging does not have."""
    found = notification.priority.lower()
    return found if found in LOWER_PRIORITIES else "other"


Field = Callable[[Notification], str]


@dataclass(frozen=True, slots=True)
class Template:
    """A template, split into its literal parts and its fields."""

    parts: tuple[tuple[str, Field | None], ...]
    """Literal text, and the field after it."""

    @property
    def prefix(self) -> str:
        """The text before the first field."""
        return self.parts[0][0] if self.parts else ""

    @property
    def is_literal(self) -> bool:
        """Whether there is no field."""
        return all(value is None for _, value in self.parts)

    def fill(self, notification: Notification) -> str:
        """Return the text for a notification; the values are inserted as they are."""
        return "".join(
            text if value is None else text + value(notification) for text, value in self.parts
        )


def parse(option: str, text: str, fields: Mapping[str, Field]) -> Template:
    """Return a template.

    Args:
        option: the section and name of the option, for messages.
        text: the text, with names of fields in braces.
        fields: the fields by their names.

    Raises:
        StartError: it is empty, or contains something else in braces.
    """
    try:
        parts = tuple(_parts(text, fields))
    except (ValueError, KeyError) as error:
        known = ", ".join(f"{{{name}}}" for name in fields)
        raise StartError(f"{option} is not a valid template: in braces can be {known}") from error
    if not parts:
        raise StartError(f"{option} is empty: set it, or remove it for the default")
    return Template(parts)


def _parts(text: str, fields: Mapping[str, Field]) -> Iterator[tuple[str, Field | None]]:
    for literal, name, form, conversion in string.Formatter().parse(text):
        if form or conversion:
            raise ValueError(name)
        yield literal, None if name is None else fields[name]
