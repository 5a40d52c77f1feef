# SPDX-License-Identifier: Apache-2.0
"""Arguments of subscribe: a mistake is an error that names the argument."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from notif_relay import BadFilter, aio, subscribe
from notif_relay.escaping import shown
from notif_relay.priorities import PRIORITIES
from notif_relay.request import filter_request

SUBSCRIBERS = pytest.mark.parametrize(
    "make", [subscribe, aio.subscribe], ids=["threads", "asyncio"]
)


class Unshown:
    """A value without a ``repr``."""

    def __repr__(self) -> str:
        raise RuntimeError


UNSHOWN = Unshown()
HUGE = 10**5000
"""An integer that Python refuses to write in decimal."""

NO_PATHS: list[Any] = [
    *("compute.*", "compute.instance.create.end", "ERROR", "*", "", "unix:///run/n.sock"),
    *(["compute.*"], ("a", "b"), {"event_type": "a"}, None, 3, 1.5, b"/run/n.sock", True),
    *("/run", "/etc/passwd", "/dev/null", "a\0b", "/" + "x" * 200, "nova/*", "*.sock"),
]


@SUBSCRIBERS
@pytest.mark.parametrize("path", NO_PATHS, ids=repr)
def test_first_argument_that_is_no_path_is_an_error(make: Any, path: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^path must "):
        make(path, timeout=0.1)


def test_pattern_as_first_argument_names_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"event_type='compute\.\*'"):
        subscribe("compute.*")


@SUBSCRIBERS
def test_relative_paths_are_accepted(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("notifications.sock", "./socket", "run/socket", Path("socket")):
        make(path, timeout=0.1).close()


@SUBSCRIBERS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout", value) for value in ("5", 0, -1, math.nan, math.inf, 1e300, True, [1])),
        *(("timeout", value) for value in (UNSHOWN, HUGE)),
        *(("reconnect", value) for value in ("no", None, 0, UNSHOWN, HUGE)),
        *(("on_gap", value) for value in ("print", 3)),
        *(("group", value) for value in ("", "a b", "x" * 65, "é", "a\n", 3, b"a")),
        *(("window", value) for value in (0, -1, 65537, 1.0, "1", True, HUGE)),
        *(("hold", value) for value in (-1, math.nan, math.inf, "1", True, 10**400, HUGE)),
        *(("auto_done", value) for value in (1, None)),
    ],
    ids=shown,
)
def test_invalid_option_is_named(make: Any, tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
        make(tmp_path / "socket", **{"group": "g"} | {name: value})


@SUBSCRIBERS
@pytest.mark.parametrize(
    "options",
    [{"window": 1}, {"hold": 0}, {"auto_done": False}, {"group": "g", "auto_done": False}],
)
def test_option_without_its_group_is_named(
    make: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    *_, name = options
    with pytest.raises(ValueError, match=f"^{name} must be used with "):
        make(tmp_path / "socket", **options)


HOPELESS: list[tuple[str, Any, str]] = [
    ("priority", "WARNING", "the priorities are AUDIT, DEBUG, INFO, WARN, ERROR"),
    ("priority", "warning", "SAMPLE; write WARN"),
    ("priority", ["ERROR", "FATAL"], "'FATAL'"),
    ("priority", "E?R", "the priorities are"),
    ("priority", "", "it is empty"),
    ("event_type", "", "it is empty"),
    ("event_type", ["compute.*", ""], "it is empty"),
    ("event_type", " ", "white space"),
    ("event_type", "compute.*\n", "white space"),
    ("event_type", "compute.*,volume.*", "comma"),
    ("event_type", "compute.[ab", "a [ has no ]"),
    ("event_type", "compute.[!", "a [ has no ]"),
    ("event_type", "compute.[]", "a [ has no ]"),
    ("event_type", "compute.[z-a]", "ends before it begins"),
    ("event_type", "notif_relayd.subscribed", "reserved for the relay"),
    ("publisher_id", "", "it is empty"),
    ("publisher_id", " nova", "white space"),
    ("event_type", [], "has no patterns"),
    ("event_type", set(), "has no patterns"),
    ("event_type", 5, "must be a pattern or a list of patterns, not 5"),
    ("event_type", b"compute.*", "must be a pattern or a list of patterns, not b'compute"),
    ("event_type", {"a": 1}, "must be a pattern or a list of patterns"),
    ("event_type", [None], "must be a string, not None"),
    ("event_type", ["a", b"b"], "must be a string, not b'b'"),
    ("priority", 30, "must be a pattern or a list of patterns, not 30"),
    ("publisher_id", object, "must be a pattern or a list of patterns"),
    ("publisher_id", "\ud800", "unpaired surrogate"),
    ("publisher_id", [HUGE], "must be a string, not <int>"),
    ("event_type", UNSHOWN, "not <Unshown>"),
    ("event_type", itertools.repeat("a"), "has more than 64 patterns"),
    ("payload", {}, "has no paths"),
    ("payload", "host=a", "must be an object of paths, not 'host=a'"),
    ("payload", {"host": "a"}, "'host' must have a list of alternatives, not 'a'"),
    ("payload", {"host": []}, "'host' has no alternatives"),
    ("payload", {"host": [{"regex": "a"}]}, "'host': an alternative must be"),
    ("payload", {"size": [math.nan]}, "'size': a number must be between"),
    ("payload", {1: ["a"]}, "must have strings as keys"),
    ("payload", {"\ud800": ["a"]}, "unpaired surrogate"),
]


@SUBSCRIBERS
@pytest.mark.parametrize(("name", "value", "problem"), HOPELESS)
def test_pattern_that_cannot_match_is_an_error(
    make: Any, tmp_path: Path, name: str, value: Any, problem: str
) -> None:
    with pytest.raises(BadFilter) as raised:
        make(tmp_path / "socket", **{name: value})
    assert name in str(raised.value)
    assert problem in str(raised.value)


@pytest.mark.parametrize("priority", [*PRIORITIES, "error", "*", "[EI]*", "?????", "warn*"])
def test_priorities_of_oslo_messaging_are_accepted(priority: str) -> None:
    assert filter_request(None, priority, None)


@pytest.mark.parametrize(
    "event_type", ["a", "*", "[[]a", "a[,]b", "[]]", "[!]]x", "a b", "notif_relayd.*", "**"]
)
def test_unusual_patterns_are_accepted(event_type: str) -> None:
    assert filter_request(event_type, None, None)
