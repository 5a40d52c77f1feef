# SPDX-License-Identifier: Apache-2.0
"""Check that each protection on the security pages names tests, and that these exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PAGES = [ROOT / "SECURITY.md", ROOT / "docs" / "explanation" / "security.rst"]


def named_tests(text: str) -> set[str]:
    return set(re.findall(r"`(test_\w+)`", text))


@pytest.fixture(scope="module")
def existing_tests() -> set[str]:
    modules = (ROOT / "tests").rglob("*.py")
    definitions = (re.findall(r"^\s*def (test_\w+)\(", each.read_text(), re.M) for each in modules)
    return {name for names in definitions for name in names}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_tests_exist(page: Path, existing_tests: set[str]) -> None:
    assert named_tests(page.read_text()) - existing_tests == set()


def test_every_protection_in_the_summary_names_a_test() -> None:
    rows = re.findall(r"^\| (?!Against|---).*", PAGES[0].read_text(), re.MULTILINE)
    assert len(rows) >= 5
    assert [row for row in rows if not named_tests(row)] == []


def test_every_protection_on_the_page_names_a_test() -> None:
    tables = PAGES[1].read_text().split("   * - Protection\n")[1:]
    rows = [
        row
        for table in tables
        for row in re.findall(r"^   \* - .*\n(?:     .*\n)+", table, re.MULTILINE)
    ]
    assert len(rows) >= 30
    assert [row for row in rows if not named_tests(row)] == []
