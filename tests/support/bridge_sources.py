# SPDX-License-Identifier: Apache-2.0
"""A reader for the tests of sources: acknowledges messages, and checks the order of the reports."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from notif_relayd_bridge.brokers.schemes import SCHEMES
from notif_relayd_bridge.brokers.source import Selection, Source
from support.bridge_targets import configured
from support.relay import Subscriber
from support.waiting import wait_until


def create_source(url: str, directory: Path, selection: Selection, **options: object) -> Source:
    """Return the source for a URL.

    Args:
        url: the URL.
        directory: where the configuration file is written.
        selection: the pool and the topics.
        options: options of the section that has the name of the scheme.
    """
    name = url.partition(":")[0]
    scheme = SCHEMES[name]
    conf = configured(directory / "bridge-in.conf", name, scheme.source_options(), options)
    return scheme.create_source(url, conf, selection)


def read_around_gaps(subscriber: Subscriber) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """Return a notification, the number of lost ones that follow, and the next notification.

    The bridge writes a gap record for those that it has when it writes, so there may be several.
    """
    first = subscriber.notification()
    dropped = 0
    while (last := subscriber.notification())["event_type"] == "notif_relayd.gap":
        assert last["payload"]["reason"] == "undeliverable"
        dropped += last["payload"]["dropped"]
    return first, dropped, last


class SimpleReader:
    """Takes messages from a source, as the pipeline of the bridge does.

    Args:
        source: is started by ``with`` and closed afterwards.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.taken: list[bytes | str] = []
        """What was acknowledged: records, and the reasons for unreadable messages."""
        self.waiting: list[bytes | str] = []
        """What is not acknowledged."""
        self.failures: list[str] = []
        self.connections = 0
        self.thread = threading.current_thread()
        """The thread that reports, after the first connection."""
        self.errors: list[str] = []
        """Reports that break the rules."""
        self._is_connected = False
        self._is_closed = False
        self._lock = threading.RLock()

    def __enter__(self) -> SimpleReader:
        self.source.start(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        assert self.errors == []

    def close(self) -> None:
        """Close the source."""
        self.source.close()
        self._is_closed = True
        self.source.close()

    def take(self, count: int) -> list[bytes | str]:
        """Wait for messages, acknowledge and return them."""
        found: list[bytes | str] = []
        while len(found) < count:
            wait_until(lambda: self.waiting, f"{count - len(found)} messages; {self.failures[-3:]}")
            found += self.acknowledge(count - len(found))
        return found

    def acknowledge(self, count: int) -> list[bytes | str]:
        """Acknowledge messages that have arrived, at most ``count``, and return them."""
        with self._lock:
            found = self.waiting[:count]
            del self.waiting[:count]
            self.taken += found
            if found:
                self.source.acknowledge(len(found))
        return found

    def wait(self, count: int) -> None:
        """Wait until a number of messages is unacknowledged."""
        wait_until(
            lambda: len(self.waiting) >= count,
            f"{count} messages; {len(self.waiting)}, {self.failures[-3:]}",
        )
        assert len(self.waiting) == count

    def wait_connections(self, count: int = 1) -> None:
        """Wait until the source has connected a number of times."""
        wait_until(
            lambda: self.connections >= count and self._is_connected,
            f"connection {count}; {self.failures[-3:]}",
        )

    def wait_failure(self, text: str = "") -> None:
        """Wait for a failure whose reason contains a text."""
        wait_until(
            lambda: any(text in reason for reason in self.failures),
            f"the failure {text!r}; {self.failures[-3:]}",
        )

    def connected(self) -> None:
        with self._lock:
            self._check(not self._is_connected and not self.waiting, "connected")
            self._is_connected = True
            self.connections += 1
            self.thread = threading.current_thread()

    def received(self, record: bytes) -> None:
        self._receive(record)

    def unreadable(self, reason: str) -> None:
        self._receive(reason)

    def failed(self, reason: str) -> None:
        with self._lock:
            self._check(True, "failed")
            self._is_connected = False
            self.waiting.clear()
            self.failures.append(reason)

    def _receive(self, message: bytes | str) -> None:
        with self._lock:
            self._check(self._is_connected, "received")
            self.waiting.append(message)
            self._check(len(self.waiting) <= self.source.max_unacknowledged, "too many")

    def _check(self, is_expected: bool, what: str) -> None:
        # An exception in the source's thread would only end that thread.
        if self._is_closed or not is_expected:
            self.errors.append(what)
