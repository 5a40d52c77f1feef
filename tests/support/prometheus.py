# SPDX-License-Identifier: Apache-2.0
"""Parsing of Prometheus metrics, and checks of metrics and rules with promtool."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from support.waiting import TIMEOUT

CHECKOUT = Path(__file__).parents[2]

PROMTOOL = shutil.which("promtool", path=f"{CHECKOUT}/.promtool:{os.environ['PATH']}")

REQUIRED = os.environ.get("NOTIF_RELAYD_PROMTOOL_TESTS") == "required"

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None and not REQUIRED, reason="promtool is missing; make test downloads it"
)

Samples = dict[tuple[str, ...], float]
"""Value by sample name and label values; the label values are in the order of the label names."""


def families(text: str) -> list[Metric]:
    """Parse the text format."""
    return list(text_string_to_metric_families(text))


def samples(text: str) -> Samples:
    """Return all samples, and check that none occurs twice."""
    found = [
        ((sample.name, *(value for _, value in sorted(sample.labels.items()))), sample.value)
        for family in families(text)
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def promtool(*arguments: str | os.PathLike[str], stdin: str = "") -> str:
    """Run promtool, which must succeed, and return its output."""
    assert PROMTOOL is not None, "promtool is missing"
    done = subprocess.run(
        [PROMTOOL, *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def family_names(found: Iterable[Metric]) -> set[str]:
    """Return the names of the families as in the text; those of counters end in `_total`."""
    return {each.name + {"counter": "_total"}.get(each.type, "") for each in found}
