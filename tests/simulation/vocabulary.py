# SPDX-License-Identifier: Apache-2.0
"""What clients and the model agree on: the records, and what subscribers request."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

FILTERS: list[dict[str, Any]] = [
    {},
    {"event_type": ["a.*"]},
    {"event_type": ["b.*"], "priority": ["info"]},
    {"event_type": ["*.x"], "publisher_id": ["p1"]},
    {"payload": {"s": [1]}},
]
TEMPLATES: list[dict[str, Any]] = [
    {"event_type": "a.x", "priority": "INFO", "publisher_id": "p1", "payload": {"s": 1}},
    {"event_type": "a.y", "priority": "WARN", "publisher_id": "p2"},
    {"event_type": "b.x", "priority": "INFO", "publisher_id": "p1"},
    {"event_type": "b.y", "priority": "ERROR", "payload": {"s": [0, 1]}},
    {
        "event_type": "notif_relayd.gap",
        "priority": "WARN",
        "payload": {"dropped": 1, "reason": "producer_congested"},
    },
]
MATCHING = [{0, 1, 2, 3, 4}, {0, 1, 4}, {2, 4}, {0, 2, 4}, {0, 3, 4}]
"""For each filter, the indexes of the templates whose records match it."""


class ModelError(AssertionError):
    """The relay has done what it must not do."""


def check(holds: object, otherwise: object) -> None:
    """Raise `ModelError` unless `holds` is true."""
    if not holds:
        raise ModelError(otherwise)


class Wanted(NamedTuple):
    """What a request asks for."""

    filter: int = 0
    """Index of the filter."""
    group: str | None = None
    window: int | None = None
    hold: float = 0

    @property
    def group_keys(self) -> dict[str, object]:
        """The keys of the request, without the filter."""
        keys = {"group": self.group, "window": self.window, "hold": self.hold}
        return {key: value for key, value in keys.items() if value}

    @property
    def line(self) -> bytes:
        """The request."""
        return json.dumps({"filter": FILTERS[self.filter]} | self.group_keys).encode() + b"\n"

    @property
    def answer(self) -> dict[str, object]:
        """The content of the answer."""
        return FILTERS[self.filter] | self.group_keys
