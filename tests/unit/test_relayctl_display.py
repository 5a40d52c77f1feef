# SPDX-License-Identifier: Apache-2.0
"""Text of relayctl: columns of a terminal, and encodings without Unicode."""

from __future__ import annotations

import io
import json
import sys

import pytest

from notif_relayctl.columns import Records, Size, Text
from notif_relayctl.display import cropped, symbol
from notif_relayctl.formats import formatted, named

ACCENTED = "e\u0301"
"""A letter and a combining character: one column."""

RECORD = '{"event_type": "日本.é", "priority": "日", "payload": "😀"}\n'.encode()


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("日本語", 6, "日本語"),
        ("日本語x", 6, "日本 …"),
        ("日本語x", 5, "日本…"),
        (ACCENTED * 6, 6, ACCENTED * 6),
        (ACCENTED * 7, 6, ACCENTED * 5 + "…"),
        ("😀", 1, "…"),
        ("ab", 0, "…"),
    ],
)
def test_text_is_cropped_by_columns(text: str, columns: int, expected: str) -> None:
    assert cropped(text, columns, "…") == expected


@pytest.mark.parametrize(
    ("text", "spec", "expected"),
    [
        ("ab", "*^6", "**ab**"),
        ("日本", "<6", "日本  "),
        ("日本", ">6", "  日本"),
        ("日本", "*^6", "*日本*"),
        ("日本", "3", "日本"),
        ("日本", ".2", "日"),
        ("日本", "<6.3s", "日    "),
        ("日本", "06", "日本00"),
        (ACCENTED, "<3", ACCENTED + "  "),
        ("日本", "", "日本"),
    ],
)
def test_width_and_precision_count_columns(text: str, spec: str, expected: str) -> None:
    assert formatted(text, spec) == expected


def test_template_and_short_format_are_aligned() -> None:
    assert named("{event_type:<8}|")(RECORD) == "日本.é  |"
    assert named("short")(RECORD) == "- 日    - 日本.é 😀"


def test_characters_outside_the_encoding_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "latin-1"))
    assert named("{event_type}")(RECORD) == r"\u65e5\u672c.é"
    assert named("{payload:>13}")(RECORD) == r" \ud83d\ude00"
    assert Text("日é").human_readable() == r"\u65e5é"
    assert Text("日é").machine_readable() == "日é"
    assert (symbol("é", "e"), symbol("▼", "v")) == ("é", "v")


def test_json_in_another_encoding_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "latin-1"))
    text = named("json-pretty")(RECORD)
    assert text.isascii()
    assert json.loads(text) == json.loads(RECORD)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (Size(0), "0 B"),
        (Size(1023), "1,023 B"),
        (Size(1024), "1.0 KiB"),
        (Size(16 * 1024 * 1024), "16.0 MiB"),
        (Size(5 * 1024**4), "5,120.0 GiB"),
        (Records(0), "0 records"),
        (Records(1), "1 record"),
        (Records(1234567), "1,234,567 records"),
    ],
)
def test_numbers_have_units_in_tables_only(column: Size | Records, text: str) -> None:
    assert column.human_readable() == text
    assert isinstance(column.machine_readable(), int)
