# SPDX-License-Identifier: Apache-2.0
"""Assigns the broker's confirmations to records.

On a channel in confirm mode, the published messages have the numbers 1, 2, 3 … The broker
confirms them one at a time or all up to a number, and in any order, because they may go to
different queues. A record for several topics is published several times and is answered when the
last of these messages is confirmed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from notif_relayd_bridge.brokers.answers import Answers
from notif_relayd_bridge.brokers.target import Events


class UnexpectedConfirmationError(Exception):
    """The broker confirms a message that was not published."""


@dataclass(slots=True)
class Record:
    """A record that has been published."""

    names_topic: bool
    """Whether the record itself names its topics."""
    _number: int
    _unconfirmed: int
    _refusal: str | None = None

    def refuse(self, reason: str) -> None:
        """Note that the broker does not accept the record, even if it confirms it afterwards."""
        self._refusal = reason

    def confirm(self, answers: Answers) -> None:
        """Note that one of its messages is confirmed."""
        self._unconfirmed -= 1
        if not self._unconfirmed:
            answers.answer(self._number, self._refusal)


class Ledger:
    """The records whose answers have not been reported."""

    def __init__(self) -> None:
        self._answers = Answers()
        self._published = 0
        self._unconfirmed: dict[int, Record] = {}
        """By the number of the message, in ascending order."""

    def __len__(self) -> int:
        """Return the number of records."""
        return self._answers.unanswered

    def add(self, messages: int, names_topic: bool) -> None:
        """Note a record that has been published.

        Args:
            messages: how many times it was published, at least once.
            names_topic: whether the record itself names its topics.
        """
        record = Record(names_topic, self._answers.sent(), messages)
        for _ in range(messages):
            self._published += 1
            self._unconfirmed[self._published] = record

    def add_refused(self, reason: str) -> None:
        """Note a record that cannot be published."""
        self._answers.answer(self._answers.sent(), reason)

    def single(self) -> Record | None:
        """Return the only record if there is one and it is unconfirmed."""
        if len(self) != 1 or not self._unconfirmed:
            return None
        return next(iter(self._unconfirmed.values()))

    def confirm(self, number: int, multiple: bool) -> None:
        """Note a confirmation; a repeated one is ignored.

        Args:
            number: number of the message.
            multiple: whether all messages before it are confirmed as well.

        Raises:
            UnexpectedConfirmationError: there is no such message.
        """
        if not 0 < number <= self._published:
            raise UnexpectedConfirmationError(
                f"the broker confirms message {number}, which is none"
            )
        numbers = [number]
        if multiple:
            numbers = list(takewhile(lambda each: each <= number, self._unconfirmed))
        for each in numbers:
            record = self._unconfirmed.pop(each, None)
            if record is not None:
                record.confirm(self._answers)

    def restart(self) -> None:
        """Begin with number 1 on a new channel; every message of the old one is answered."""
        for record in self._unconfirmed.values():
            record.confirm(self._answers)
        self._unconfirmed.clear()
        self._published = 0

    def report(self, events: Events) -> bool:
        """Report the answers whose turn has come; return whether there were any."""
        return self._answers.report(events)
