# SPDX-License-Identifier: Apache-2.0
"""Remembers what depends only on publisher, event type and priority, such as a topic.

Decoding a record takes several times as long as sending it. Most records of a host have one of few
heads, which are compared without decoding. A record with duplicate names, which JSON writers do not
produce, may get the value for its first names instead of its last ones. Its producer chooses both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from notif_relay import Notification
from notif_relay.notification import head, is_head

MAX_HEADS = 1024
"""Number of remembered heads, each of at most 1 KiB. Then all are forgotten."""

T = TypeVar("T")
"""The type of the value; None is not remembered."""


class ByHead(Generic[T]):
    """Returns a value for a notification.

    Args:
        compute: returns the value; it may use only publisher, event type and priority.
    """

    def __init__(self, compute: Callable[[Notification], T]) -> None:
        self._compute = compute
        self._values: dict[bytes | None, T] = {}

    def __call__(self, notification: Notification) -> T:
        """Return the value."""
        found = head(notification.raw)
        value = self._values.get(found)
        if value is not None:
            return value
        value = self._compute(notification)
        if found is not None and is_head(found):
            if len(self._values) >= MAX_HEADS:
                self._values.clear()
            self._values[found] = value
        return value
