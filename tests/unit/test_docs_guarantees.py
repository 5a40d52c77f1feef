# SPDX-License-Identifier: Apache-2.0
"""The page about guarantees names what exists: reasons of gaps, metrics and log messages."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from notif_relay.records import GapReason
from support.doc_blocks import ROOT

PAGE = (ROOT / "docs/explanation/guarantees.rst").read_text()


@pytest.mark.parametrize("reason", get_args(GapReason))
def test_page_names_each_reason_of_gaps(reason: str) -> None:
    assert f"``{reason}``" in PAGE


def test_named_metrics_exist() -> None:
    metrics = (ROOT / "docs/metrics.rst").read_text()
    named = set(re.findall(r"``(notif_relayd_\w+)``", PAGE))
    assert len(named) >= 4
    assert [each for each in named if f"``{each}`` (" not in metrics] == []


def test_quoted_messages_exist() -> None:
    messages = (ROOT / "docs/reference/log-messages.rst").read_text()
    quoted = [text for text in re.findall(r"``([^`]*…[^`]*)``", PAGE) if " " in text]
    assert len(quoted) >= 3
    for text in quoted:
        assert re.search(re.escape(text).replace("…", ".*"), messages), text
