# SPDX-License-Identifier: Apache-2.0
"""Notifications that the relay would reject, emitted by services with oslo.messaging."""

from __future__ import annotations

import logging
import sys
import threading

import pytest

from notif_relay.messaging.options import list_opts
from support.messaging import configuration, make_notifier, transport_to
from support.records import record
from support.relay import RunningRelay


def nested(levels: int) -> list[object]:
    inner: list[object] = []
    for _ in range(levels):
        inner = [inner]
    return inner


INVALID = [
    ("event", {"load": float("nan")}, "NaN is not JSON"),
    ("event", [1, {"free": float("inf")}], "Infinity is not JSON"),
    ("event", {"password": "x", "load": float("-inf")}, "-Infinity is not JSON"),
    (None, {}, "event_type is not a string, but null"),
    (5, {}, "event_type is not a string, but 5"),
    (["a"], {}, "event_type is not a string, but a list"),
    ("notif_relayd.error", "text", "is reserved for the relay"),
    ("event", "x" * 1_100_000, "max_record_size is 1048576 bytes"),
    ("event", {"large": "x" * 1_100_000, "lock": threading.Lock()}, "cannot be written as JSON"),
    ("event", {("a", "b"): 1}, "cannot be written as JSON: TypeError"),
    ("event", nested(100_000), "cannot be written as JSON: RecursionError"),
]


class OutsideExceptionHandlers(logging.Filter):
    """Hides what is logged while an exception is handled, which oslo.log appends to the message."""

    def filter(self, _: logging.LogRecord) -> bool:
        return sys.exc_info()[1] is None


@pytest.mark.parametrize("driver", ["unix", "messaging", "messagingv2"])
def test_invalid_notification_is_one_warning_in_the_service(
    relay: RunningRelay, caplog: pytest.LogCaptureFixture, driver: str
) -> None:
    conf = configuration()
    for group, opts in list_opts():
        conf.register_opts(opts, group=group)
        conf.set_override("sock_path", str(relay.public), group=group)
    with (
        relay.subscribe() as subscriber,
        transport_to(relay.public, conf) as transport,
        caplog.filtering(OutsideExceptionHandlers()),
    ):
        emit = make_notifier(transport, driver=driver)
        for event_type, payload, problem in INVALID:
            caplog.clear()
            emit.info({}, event_type, payload)
            (warning,) = caplog.records
            assert warning.levelno == logging.WARNING
            assert problem in warning.getMessage()
            assert warning.getMessage().endswith("records dropped so far)")
            assert warning.getMessage().startswith(f"{event_type} of compute.host-1: ")
            assert len(warning.getMessage()) < 400
        caplog.clear()
        emit.info({}, "valid", {})
        assert subscriber.notification()["event_type"] == "valid"
    assert not caplog.records
    assert relay.status()["records_rejected"] == 0


def test_warning_counts_dropped_records(
    relay: RunningRelay, caplog: pytest.LogCaptureFixture
) -> None:
    with transport_to(relay.public) as transport:
        emit = make_notifier(transport)
        for _ in range(3):
            emit.info({}, "event", float("nan"))
    assert [each.getMessage()[-30:] for each in caplog.records] == [
        f"not JSON ({number} records dropped so far)"[-30:] for number in (1, 2, 3)
    ]


def test_relay_rejects_what_the_library_refuses(relay: RunningRelay) -> None:
    with relay.produce() as producer:
        producer.sendall(record(payload=float("nan")))
        relay.wait_status(records_rejected=1)
