# SPDX-License-Identifier: Apache-2.0
"""Check the links of the Markdown files; Sphinx checks those in docs/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.md")))
def test_every_link_target_is_a_file(name: str) -> None:
    text = (ROOT / name).read_text()
    headings = {f"#{each.lower()}" for each in re.findall(r"^#+ (\w+)$", text, re.MULTILINE)}
    links = set(re.findall(r"\]\(([^)]+)\)", text)) - headings
    assert [link for link in links if not (ROOT / link).is_file()] == []


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.md")))
def test_every_named_make_target_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / name).read_text(), re.M)) <= targets
