# SPDX-License-Identifier: Apache-2.0
"""Metrics as Prometheus understands them, and Prometheus' own opinion of what we give it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from support.running import DEADLINE

CHECKOUT = Path(__file__).parents[2]

PROMTOOL = shutil.which("promtool", path=f"{CHECKOUT}/.promtool:{os.environ['PATH']}")

REQUIRED = os.environ.get("NOTIF_RELAYD_PROMTOOL_TESTS") == "required"

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None and not REQUIRED, reason="there is no promtool; make test fetches it"
)

Samples = dict[tuple[str, ...], float]
"""By name and, in the order of their names, the values of the labels."""


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def samples(text: str) -> Samples:
    """All samples, each of which is there only once."""
    found = [
        ((sample.name, *(value for _, value in sorted(sample.labels.items()))), sample.value)
        for family in families(text)
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def promtool(*arguments: str | os.PathLike[str], stdin: str = "") -> str:
    """Run promtool, which has to be content; what it says."""
    assert PROMTOOL is not None, "there is no promtool"
    done = subprocess.run(
        [PROMTOOL, *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def names(found: Iterable[Metric]) -> set[str]:
    """The families' names as they stand in the text: a counter's with its ending."""
    return {each.name + {"counter": "_total"}.get(each.type, "") for each in found}
