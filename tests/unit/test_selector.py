# SPDX-License-Identifier: Apache-2.0
"""A selector agrees with the filters themselves, and what it remembers is bounded."""

from __future__ import annotations

import pytest

from notif_relayd.filters import Filter, View
from notif_relayd.selector import Selector


def allowing(*rules: dict[str, list[str]]) -> frozenset[Filter]:
    return frozenset(Filter.parse(rule) for rule in rules)


@pytest.mark.parametrize(
    ("event_type", "passes"),
    [
        ("compute.start", True),
        ("compute.end", False),
        ("volume.start", True),
        ("port.start", False),
    ],
)
def test_view_is_what_is_asked_for_and_any_rule_allows(event_type: str, passes: bool) -> None:
    asked = Filter.parse({"event_type": ["*.start"]})
    view = View(asked, allowing({"event_type": ["compute.*"]}, {"event_type": ["volume.*"]}))
    selector: Selector[str] = Selector()
    selector.add(view, "target")
    assert selector.select([(event_type, "INFO", "")]) == ({"target": [0]} if passes else {})


@pytest.mark.parametrize("asked", [None, Filter.parse({"priority": ["INFO"]})])
def test_view_without_rules_has_gap_records_only(asked: Filter | None) -> None:
    selector: Selector[str] = Selector()
    selector.add(View(asked, frozenset()), "target")
    kinds = [("compute.start", "INFO", ""), ("notif_relayd.gap", "WARN", "")]
    assert selector.select(kinds) == {"target": [1]}
