# SPDX-License-Identifier: Apache-2.0
"""The output formats of relayctl tail, for normal and for hostile records."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relay import records
from notif_relayctl.errors import CtlError
from notif_relayctl.formats import named

NOTIFICATION = {
    "message_id": "a1",
    "publisher_id": "compute.host-1",
    "event_type": "compute.instance.update",
    "priority": "WARN",
    "payload": {"uuid": "i-1", "fixed_ips": [{"address": "10.0.0.1"}], "n": 3, "on": True},
    "timestamp": "2026-03-04 05:06:07.089012",
}

HOSTILE = "\x1b[2J\n\r\x07\x7f\x9b31m\u202e\u2028\ud800"
ESCAPED = r"\u001b[2J\n\r\u0007\u007f\u009b31m\u202e\u2028\ud800"


def record(**fields: object) -> bytes:
    """Return a record with the fields of NOTIFICATION, some of them replaced."""
    return json.dumps({**NOTIFICATION, **fields}).encode() + b"\n"


@pytest.fixture
def _five_hours_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_five_hours_behind")
@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [
        ("2026-03-04 05:06:07.089012", "2026-03-04 00:06:07.089"),
        ("2026-03-04 05:06:07", "2026-03-04 00:06:07.000"),
        ("2026-03-04T07:06:07.089012+02:00", "2026-03-04 00:06:07.089"),
        ("yesterday\n", r"yesterday\n"),
        (None, "-"),
        (7, "7"),
    ],
)
def test_short_format_starts_with_local_time(timestamp: object, shown: str) -> None:
    assert named("short")(record(timestamp=timestamp)).startswith(f"{shown} WARN ")


def test_short_format_is_one_line_with_json_payload() -> None:
    assert named("short")(record()).endswith(
        " WARN  compute.host-1 compute.instance.update "
        '{"uuid": "i-1", "fixed_ips": [{"address": "10.0.0.1"}], "n": 3, "on": true}'
    )


def test_json_format_is_the_record_unchanged() -> None:
    raw = b'{"event_type":"x" , "priority":"INFO", "n":1e3, "name":"h\xc3\xb8st"}\n'
    assert named("json")(raw).encode() + b"\n" == raw


def test_pretty_json_is_equal_json() -> None:
    shown = named("json-pretty")(record(payload={"name": "høst"}))
    assert json.loads(shown) == {**NOTIFICATION, "payload": {"name": "høst"}}
    assert '\n    "name": "høst"\n' in shown


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{event_type}", "compute.instance.update"),
        ("{timestamp} {payload[uuid]}", "2026-03-04 05:06:07.089012 i-1"),
        ("{payload[fixed_ips][0][address]:>9}|", " 10.0.0.1|"),
        ("{payload[n]:>3} {payload[on]}", "  3 true"),
        ("{payload[fixed_ips]}", '[{"address": "10.0.0.1"}]'),
        ("{{{priority!r}}}", "{'WARN'}"),
        ("{colour} {payload[colour]} {payload[uuid][colour]}", "- - -"),
        ("{payload[fixed_ips][7]} {payload[fixed_ips][x]} {payload[n][0]}", "- - -"),
    ],
)
def test_template_shows_nested_fields(template: str, shown: str) -> None:
    assert named(template)(record()) == shown


@pytest.mark.parametrize(
    "template",
    [
        "{payload.__class__}",
        "{payload[uuid].__class__}",
        "{event_type.upper}",
        "{}",
        "{0}",
        "{event_type",
        "{payload[}",
        "{payload[n]:.2f}",
        "{event_type:{priority}}",
        "{event_type!x}",
        "{event_type:999999999999999}",
        "{event_type:9999999999999999999999}",
    ],
)
def test_invalid_template_is_refused_at_start(template: str) -> None:
    with pytest.raises(CtlError, match=r"invalid template .*: ."):
        named(template)


def test_unknown_format_error_lists_the_formats() -> None:
    with pytest.raises(
        CtlError, match=r"unknown format 'jsn'.* short, json, json-pretty.*mean json"
    ):
        named("jsn")


@pytest.mark.parametrize(
    "field", ["event_type", "priority", "publisher_id", "payload", "timestamp"]
)
@pytest.mark.parametrize("value", [HOSTILE, {HOSTILE: [HOSTILE]}], ids=["text", "nested"])
@pytest.mark.parametrize("form", ["short", "json-pretty", "template"])
def test_control_characters_are_escaped(form: str, field: str, value: object) -> None:
    template = "{event_type} {priority} {publisher_id} {payload} {timestamp}"
    shown = named(template if form == "template" else form)(record(**{field: value}))
    lines = shown.split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 1 or form == "json-pretty"
    assert ESCAPED[:9] in shown.replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("dropped", "shown"),
    [
        (12, "-- gap: 12 dropped (slow_subscriber) --"),
        (None, "-- gap: an unknown number dropped (slow_subscriber) --"),
    ],
)
def test_gap_is_a_line_in_text_and_a_record_in_json(dropped: int | None, shown: str) -> None:
    gap = records.gap(dropped, "slow_subscriber")
    assert named("short")(gap) == named("{event_type}")(gap) == shown
    assert named("json")(gap).encode() + b"\n" == gap
    assert json.loads(named("json-pretty")(gap)) == json.loads(gap)


@pytest.mark.parametrize("payload", [None, [], {}, HOSTILE, {"dropped": HOSTILE, "reason": [7]}])
def test_forged_gap_is_shown(payload: object) -> None:
    assert named("short")(record(event_type=records.GAP, payload=payload)).isprintable()


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(NOTIFICATION)) | st.text(), NESTED))
def test_any_record_can_be_shown(fields: dict[str, object]) -> None:
    odd = json.dumps(fields).encode() + b"\n"
    for form in ("short", "json-pretty", "{event_type:>9} {payload[a][0]}"):
        assert all(line.isprintable() for line in named(form)(odd).split("\n"))


@pytest.mark.parametrize("payload", ["9" * 10_000, "[" * 990 + "]" * 990], ids=["digits", "depth"])
def test_undecodable_record_is_shown_unchanged(payload: str) -> None:
    odd = record(payload="HERE").replace(b'"HERE"', payload.encode())
    for form in ("short", "json-pretty", "{payload}"):
        assert payload in named(form)(odd).replace(" ", "").replace("\n", "")
