# SPDX-License-Identifier: Apache-2.0
"""Check the dashboard, alert rules and metrics page against the relay's metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import Metric

from support.bridge_status import REPORT, serve
from support.groups import join
from support.prometheus import CHECKOUT, families, family_names, needs_promtool, promtool
from support.relay import RunningRelay
from support.relayctl import relayctl

DASHBOARD = CHECKOUT / "etc/grafana/notif-relayd.json"
RULES = CHECKOUT / "etc/prometheus/notif-relayd.rules.yml"
RULE_TESTS = CHECKOUT / "tests/unit/alerts.yml"
PAGE = CHECKOUT / "docs/metrics.rst"

NAME = re.compile(r"\bnotif_relayd_[a-z_]+")


@pytest.fixture
def exported(relay: RunningRelay) -> list[Metric]:
    """Return all metric families of a relay with a producer, a subscriber, a group and a bridge."""
    bridges = relay.directory / "bridges"
    bridges.mkdir()
    arguments = ("--per-connection", "--bridge-dir", str(bridges))
    with relay.subscribe(), join(relay), relay.produce(), serve(bridges, "b", REPORT):
        relay.wait_status(producers=1)
        return families(relayctl(relay.directory, "metrics", *arguments).stdout)


def series(exported: list[Metric]) -> set[str]:
    """Return the names that an expression may use."""
    return {sample.name for family in exported for sample in family.samples}


def dashboard_expressions() -> list[str]:
    """Return the dashboard's queries with the variables that Grafana replaces."""
    board = json.loads(DASHBOARD.read_text())
    found = [each["expr"] for panel in board["panels"] for each in panel["targets"]]
    found.append(board["templating"]["list"][1]["query"]["query"])
    return [
        expression.replace("$__rate_interval", "1m")
        .replace("$__range", "1h")
        .replace("$instance", ".*")
        for expression in found
    ]


def rule_expressions() -> list[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def test_every_expression_uses_existing_metrics(exported: list[Metric]) -> None:
    known = series(exported)
    for expression in [*dashboard_expressions(), *rule_expressions()]:
        used = set(NAME.findall(expression))
        assert used, expression
        assert used <= known, expression


def test_dashboard_and_alerts_use_existing_labels(
    exported: list[Metric],
) -> None:
    known = {label for family in exported for sample in family.samples for label in sample.labels}
    used = set(re.findall(r"\{\{ ?\$?(?:labels\.)?(\w+) ?\}\}", DASHBOARD.read_text()))
    used |= set(re.findall(r"\$labels\.(\w+)", RULES.read_text()))
    assert used <= known | {"instance"}


def test_panels_do_not_overlap_and_have_descriptions() -> None:
    places: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        grid = panel["gridPos"]
        place = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not places & place, panel["title"]
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        assert panel["description"], panel["title"]
        places |= place


def described_metrics() -> Iterator[tuple[str, str]]:
    """Yield each metric that the page describes, and the text in its parentheses."""
    yield from re.findall(r"^``(notif_relayd_\w+)`` \((.*)\)$", PAGE.read_text(), re.MULTILINE)


def test_page_describes_each_metric_once(exported: list[Metric]) -> None:
    described = dict(described_metrics())
    assert len(described) == len(list(described_metrics()))
    assert described.keys() == family_names(exported)
    for family in exported:
        (name,) = family_names([family])
        kind, *_ = described[name].split(",")
        assert kind == family.type, name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if not labels >= {"id"}:  # The per-connection metrics are in another section.
            assert set(re.findall(r"``(\w+)``", described[name])) == labels, name


def test_page_lists_only_existing_metrics_and_all_reasons(exported: list[Metric]) -> None:
    text = PAGE.read_text()
    assert set(NAME.findall(text)) <= series(exported) | family_names(exported)
    reasons = {
        value
        for family in exported
        for sample in family.samples
        for label, value in sample.labels.items()
        if label in ("reason", "socket")
    }
    assert reasons <= set(re.findall(r"``(\w+)``", text))


def test_page_states_the_number_of_series(exported: list[Metric]) -> None:
    labels = {"id", "group", "bridge"}
    found = [sample for family in exported for sample in family.samples]
    bounded = [each for each in found if not labels & each.labels.keys()]
    of_bridge = [each for each in found if "bridge" in each.labels]
    text = " ".join(PAGE.read_text().split())
    assert f"There are {len(bounded)} time series, and {len(of_bridge)} for each bridge." in text


@needs_promtool
def test_promtool_accepts_the_rules_and_their_tests() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS)


@needs_promtool
def test_promtool_accepts_each_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": expression}
        for number, expression in enumerate(dashboard_expressions())
        if not expression.startswith("label_values(")
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", file)
