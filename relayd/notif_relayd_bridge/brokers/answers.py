# SPDX-License-Identifier: Apache-2.0
"""Puts the answers of a broker into the order in which the messages were sent.

A broker with several partitions or streams answers in another order. Only an answer to the oldest
message counts at once; an earlier one waits until all messages before it are answered.
"""

from __future__ import annotations

from notif_relayd_bridge.brokers.target import Events


class Answers:
    """Numbers the messages of a target and reports the answers to them in order."""

    def __init__(self) -> None:
        self._oldest = 0
        self._confirmed = 0  # the messages before this number are confirmed
        self._next = 0
        self._waiting: dict[int, str | None] = {}

    @property
    def unanswered(self) -> int:
        """Number of messages whose answer is not reported yet."""
        return self._next - self._oldest

    def sent(self) -> int:
        """Count a message and return its number."""
        number = self._next
        self._next = number + 1
        return number

    def take_back(self) -> None:
        """Undo the last ``sent``."""
        self._next -= 1

    def answer(self, number: int, refusal: str | None = None) -> None:
        """Note the answer to a message.

        An answer to no unanswered message is ignored, such as one from before ``forget``.

        Args:
            number: what ``sent`` has returned.
            refusal: why the broker will never accept the message; ``None`` if it is safe there.
        """
        if number == self._confirmed < self._next and refusal is None and not self._waiting:
            self._confirmed = number + 1
        elif self._confirmed <= number < self._next:
            self._waiting[number] = refusal

    def report(self, events: Events) -> bool:
        """Report the answers whose turn has come; return whether there were any."""
        reported = False
        while self._oldest < self._confirmed or self._oldest in self._waiting:
            reported = True
            confirmed, refusal = self._take()
            if confirmed:
                events.confirmed(confirmed)
            if refusal is not None:
                events.refused(refusal)
        return reported

    def _take(self) -> tuple[int, str | None]:
        """Remove the oldest answers up to a refusal; return how many are none, and the refusal."""
        first = self._oldest
        number = self._confirmed
        refusal = None
        while refusal is None and number in self._waiting:
            refusal = self._waiting.pop(number)
            number += 1
        self._oldest = self._confirmed = number
        return number - first - (refusal is not None), refusal

    def forget(self) -> None:
        """Ignore answers to all messages that were sent before this call."""
        self._oldest = self._confirmed = self._next
        self._waiting.clear()
