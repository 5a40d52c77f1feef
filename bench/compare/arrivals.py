# SPDX-License-Identifier: Apache-2.0
"""Accounts for the records of many hosts at one subscriber."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

Wants = Callable[[int, int], bool]
"""Returns whether a filter passes a record: number of the host, number of the record."""


class Arrivals:
    """What one subscriber has received.

    Args:
        hosts: number of hosts.
        wants: tells which records it must receive.
    """

    def __init__(self, hosts: int, wants: Wants) -> None:
        self._wants = wants
        self._numbers: list[set[int]] = [set() for _ in range(hosts)]
        self._last = [-1] * hosts
        self._partial = b""
        self.duplicates = 0
        """Further copies of records."""
        self.disordered = 0
        """First copies that arrived after a later record of the same host."""
        self.announced = 0
        """Lost records by the gap records."""
        self.unknown_gaps = 0
        """Gap records without a number."""

    @property
    def records(self) -> int:
        """Number of different records."""
        return sum(map(len, self._numbers))

    def read(self, data: bytes) -> None:
        """Note the next bytes of the stream."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._note(json.loads(line))

    def missing(self, sent: Sequence[int]) -> int:
        """Return the number of wanted records that have not arrived.

        Args:
            sent: number of records of each host.
        """
        return sum(
            number not in self._numbers[host]
            for host, count in enumerate(sent)
            for number in range(count)
            if self._wants(host, number)
        )

    def unexplained(self, sent: Sequence[int]) -> int:
        """Return the number of missing records that no gap record announces."""
        return 0 if self.unknown_gaps else max(0, self.missing(sent) - self.announced)

    def _note(self, fields: dict[str, object]) -> None:
        payload = fields["payload"]
        assert isinstance(payload, dict)
        if fields["event_type"] == "notif_relayd.gap":
            self.announced += payload["dropped"] or 0
            self.unknown_gaps += payload["dropped"] is None
        elif fields["event_type"] != "notif_relayd.subscribed":
            self._note_record(payload["host"], payload["number"])

    def _note_record(self, host: int, number: int) -> None:
        if number in self._numbers[host]:
            self.duplicates += 1
            return
        self._numbers[host].add(number)
        self.disordered += number < self._last[host]
        self._last[host] = max(self._last[host], number)
