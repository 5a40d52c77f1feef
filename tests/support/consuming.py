# SPDX-License-Identifier: Apache-2.0
"""A consumer as its authors write it: endpoints, and a listener of oslo.messaging for them."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest
from futurist._thread import ThreadWorker
from oslo_config import cfg
from oslo_messaging.notify.dispatcher import PRIORITIES

from support.running import DEADLINE

TOPIC = "notifications"


@dataclass(frozen=True)
class Notified:
    """What an endpoint was called with."""

    priority: str
    context: dict[str, Any]
    publisher_id: str
    event_type: str
    payload: Any
    metadata: dict[str, Any]


class Endpoint:
    """Keeps what it is given; has methods for these priorities, or for all."""

    def __init__(self, *priorities: str) -> None:
        self.calls: queue.Queue[list[Notified]] = queue.Queue()
        for priority in priorities or PRIORITIES:
            setattr(self, priority, functools.partial(self.take, priority))

    def take(self, priority: str, *call: Any) -> None:
        """Be called, with a list of dictionaries if the listener makes batches."""
        if len(call) == 1:
            call_ = [self._notified(priority, **each) for each in call[0]]
        else:
            ctxt, publisher_id, event_type, payload, metadata = call
            call_ = [self._notified(priority, ctxt, publisher_id, event_type, payload, metadata)]
        self.calls.put(call_)

    @staticmethod
    def _notified(
        priority: str,
        ctxt: dict[str, Any],
        publisher_id: str,
        event_type: str,
        payload: Any,
        metadata: dict[str, Any],
    ) -> Notified:
        return Notified(priority, ctxt, publisher_id, event_type, payload, metadata)

    def batch(self) -> list[Notified]:
        """What the next call brings."""
        return self.calls.get(timeout=DEADLINE)

    def next(self) -> Notified:
        """The next notification, of a listener that gives them one by one."""
        (notified,) = self.batch()
        return notified

    def payloads(self, number: int) -> list[Any]:
        """The payloads of the next ones, sorted: a listener's threads keep no order."""
        return sorted(self.next().payload for _ in range(number))


def configuration(**notifications: Any) -> cfg.ConfigOpts:
    """A service's, with these options in [oslo_messaging_notifications]."""
    conf = cfg.ConfigOpts()
    conf([], project="service", default_config_files=[])
    oslo_messaging.get_notification_transport(conf, url="fake://")  # has the options registered
    for name, value in notifications.items():
        conf.set_override(name, value, group="oslo_messaging_notifications")
    return conf


@contextlib.contextmanager
def transport_to(
    public: Path | str, conf: cfg.ConfigOpts | None = None
) -> Iterator[oslo_messaging.NotificationTransport]:
    """What transport_url = unix://PUBLIC makes."""
    transport = oslo_messaging.get_notification_transport(
        conf or configuration(), url=f"unix://{public}"
    )
    try:
        yield transport
    finally:
        transport.cleanup()


@contextlib.contextmanager
def listening(
    transport: oslo_messaging.NotificationTransport,
    *endpoints: object,
    topics: tuple[str, ...] = (TOPIC,),
    **how: Any,
) -> Iterator[oslo_messaging.MessageHandlingServer]:
    """A listener, started, and stopped in the end; with `batch_size` one that makes batches."""
    make = (
        oslo_messaging.get_batch_notification_listener
        if "batch_size" in how
        else oslo_messaging.get_notification_listener
    )
    targets = [oslo_messaging.Target(topic=topic) for topic in topics]
    listener = make(transport, targets, list(endpoints), **{"executor": "threading", **how})
    with pytest.MonkeyPatch.context() as patch:
        # The executor's threads look only so often whether they are to end: else once a second.
        patch.setattr(ThreadWorker, "MAX_IDLE_FOR", 0.01)
        listener.start()
        try:
            yield listener
        finally:
            listener.stop()
            listener.wait()


def notifier(
    transport: oslo_messaging.NotificationTransport,
    *topics: str,
    driver: str | None = "messagingv2",
    **how: Any,
) -> oslo_messaging.Notifier:
    return oslo_messaging.Notifier(
        transport, "compute.host-1", driver=driver, topics=list(topics or (TOPIC,)), **how
    )


def left_open() -> set[threading.Thread | str]:
    """The threads and descriptors of this process; those of an earlier test may be just ending."""
    return {*threading.enumerate(), *os.listdir("/proc/self/fd")}
