# SPDX-License-Identifier: Apache-2.0
"""A pipeline for the tests of sources: keeps what is reported, and checks the order of reports."""

from __future__ import annotations

import json
from typing import Any

from notif_relayd_bridge.brokers.source import Source
from support.waiting import wait_until


class SimpleSink:
    """Keeps the messages that a source reports.

    Args:
        source: is started by ``with`` and closed afterwards.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.messages: list[bytes | str] = []
        """Each record, or why the message is unreadable."""
        self.failures: list[str] = []
        self.connections = 0
        self.is_connected = False
        self.unexpected: list[str] = []
        """Reports that a source must not make."""
        self._is_closed = False

    def __enter__(self) -> SimpleSink:
        self.source.start(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()
        self._is_closed = True
        self.source.close()
        assert self.unexpected == []

    def wait_connected(self, times: int = 1) -> None:
        """Wait until the source has connected a number of times."""
        wait_until(
            lambda: self.is_connected and self.connections >= times,
            f"a connection; {self.failures[-3:]}",
        )

    def wait_received(self, count: int) -> None:
        """Wait until a number of messages was reported."""
        wait_until(
            lambda: len(self.messages) >= count,
            f"{count} messages, not {len(self.messages)}; {self.failures[-3:]}",
        )

    def wait_failures(self, count: int) -> None:
        """Wait until a number of failures was reported."""
        wait_until(lambda: len(self.failures) >= count, f"{count} failures")

    def numbers(self) -> list[int | str]:
        """Return the number in the payload of each record, and the other reports."""
        return [each if isinstance(each, str) else _number(each) for each in self.messages]

    def connected(self) -> None:
        self._check(not self.is_connected, "connected")
        self.is_connected = True
        self.connections += 1

    def received(self, record: bytes) -> None:
        self._check(self.is_connected, "received")
        self.messages.append(record)

    def unreadable(self, reason: str) -> None:
        self._check(self.is_connected, "unreadable")
        self.messages.append(reason)

    def failed(self, reason: str) -> None:
        self._check(True, "failed")
        self.is_connected = False
        self.failures.append(reason)

    def _check(self, is_expected: bool, report: str) -> None:
        # An exception in the thread of the source would only end that thread.
        if self._is_closed or not is_expected:
            self.unexpected.append(report)


def _number(record: bytes) -> int:
    payload: dict[str, Any] = json.loads(record)["payload"]
    number = payload["number"]
    assert isinstance(number, int)
    return number
