# SPDX-License-Identifier: Apache-2.0
"""A consumer that uses oslo.messaging: endpoints, a transport and a listener."""

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

from support.waiting import TIMEOUT

TOPIC = "notifications"


@dataclass(frozen=True)
class EndpointCall:
    """The arguments of one call of an endpoint."""

    priority: str
    context: dict[str, Any]
    publisher_id: str
    event_type: str
    payload: Any
    metadata: dict[str, Any]


class Endpoint:
    """An endpoint that records its calls.

    It has one method for each of the given priorities, by default for all of them.
    """

    def __init__(self, *priorities: str) -> None:
        self.calls: queue.Queue[list[EndpointCall]] = queue.Queue()
        for priority in priorities or PRIORITIES:
            setattr(self, priority, functools.partial(self.receive, priority))

    def receive(self, priority: str, *call: Any) -> None:
        """Record a call; `call` is one list of dictionaries if the listener makes batches."""
        if len(call) == 1:
            batch = [self._endpoint_call(priority, **each) for each in call[0]]
        else:
            batch = [self._endpoint_call(priority, *call)]
        self.calls.put(batch)

    @staticmethod
    def _endpoint_call(
        priority: str,
        ctxt: dict[str, Any],
        publisher_id: str,
        event_type: str,
        payload: Any,
        metadata: dict[str, Any],
    ) -> EndpointCall:
        return EndpointCall(priority, ctxt, publisher_id, event_type, payload, metadata)

    def next_batch(self) -> list[EndpointCall]:
        """Wait for the next call, and return its notifications."""
        return self.calls.get(timeout=TIMEOUT)

    def next_notification(self) -> EndpointCall:
        """Wait for the next notification from a listener that makes no batches."""
        (call,) = self.next_batch()
        return call

    def next_payloads(self, number: int) -> list[Any]:
        """Return the payloads of the next notifications, sorted.

        The threads of a listener do not keep the order.
        """
        return sorted(self.next_notification().payload for _ in range(number))


def configuration(**notifications: Any) -> cfg.ConfigOpts:
    """Return a configuration with these options in [oslo_messaging_notifications]."""
    conf = cfg.ConfigOpts()
    conf([], project="service", default_config_files=[])
    oslo_messaging.get_notification_transport(conf, url="fake://")  # registers the options
    for name, value in notifications.items():
        conf.set_override(name, value, group="oslo_messaging_notifications")
    return conf


@contextlib.contextmanager
def transport_to(
    public: Path | str, conf: cfg.ConfigOpts | None = None, *, query: str = ""
) -> Iterator[oslo_messaging.NotificationTransport]:
    """Yield the transport for transport_url = unix://PUBLIC?QUERY."""
    transport = oslo_messaging.get_notification_transport(
        conf or configuration(), url=f"unix://{public}?{query}"
    )
    try:
        yield transport
    finally:
        transport.cleanup()


@contextlib.contextmanager
def running_listener(
    transport: oslo_messaging.NotificationTransport,
    *endpoints: object,
    topics: tuple[str, ...] = (TOPIC,),
    **options: Any,
) -> Iterator[oslo_messaging.MessageHandlingServer]:
    """Run a listener until the end of the block; with `batch_size`, one that makes batches."""
    make = (
        oslo_messaging.get_batch_notification_listener
        if "batch_size" in options
        else oslo_messaging.get_notification_listener
    )
    targets = [oslo_messaging.Target(topic=topic) for topic in topics]
    listener = make(transport, targets, list(endpoints), **{"executor": "threading", **options})
    with pytest.MonkeyPatch.context() as patch:
        # An idle thread of the executor checks at this interval, by default 1 s, whether to end.
        patch.setattr(ThreadWorker, "MAX_IDLE_FOR", 0.01)
        listener.start()
        try:
            yield listener
        finally:
            listener.stop()
            listener.wait()


def make_notifier(
    transport: oslo_messaging.NotificationTransport,
    *topics: str,
    driver: str | None = "messagingv2",
    **options: Any,
) -> oslo_messaging.Notifier:
    return oslo_messaging.Notifier(
        transport, "compute.host-1", driver=driver, topics=list(topics or (TOPIC,)), **options
    )


def threads_and_descriptors() -> set[threading.Thread | str]:
    """Return the threads and descriptors of this process.

    They may include threads of an earlier test that are just ending.
    """
    return {*threading.enumerate(), *os.listdir("/proc/self/fd")}
