# SPDX-License-Identifier: Apache-2.0
"""Metric families with one prefix."""

from collections.abc import Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

PREFIX = "notif_relayd_"


def gauge(name: str, documentation: str, value: float) -> Metric:
    """Return a current value."""
    return GaugeMetricFamily(PREFIX + name, documentation, value=value)


def counter(name: str, documentation: str, value: float) -> Metric:
    """Return a counter; `_total` is appended to its name."""
    return CounterMetricFamily(PREFIX + name, documentation, value=value)


def gauges(
    name: str,
    documentation: str,
    labels: Sequence[str],
    values: Mapping[tuple[str, ...], float],
) -> Metric:
    """Return a current value for each tuple of label values."""
    family = GaugeMetricFamily(PREFIX + name, documentation, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def counters(
    name: str,
    documentation: str,
    labels: Sequence[str],
    values: Mapping[tuple[str, ...], float],
) -> Metric:
    """Return a counter for each tuple of label values."""
    family = CounterMetricFamily(PREFIX + name, documentation, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family
