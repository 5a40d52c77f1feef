# SPDX-License-Identifier: Apache-2.0
"""What the pipeline needs of the target and of the spool, and has in common with the reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from notif_relay import Notification

MAX_HELD_BYTES = 16 * 1024 * 1024
"""Size of the notifications that are read and not finished, at which reading pauses. One more may
exceed it."""


class Sender(Protocol):
    """The part of a target that the pipeline uses."""

    @property
    def max_unconfirmed(self) -> int:
        """Maximum number of unconfirmed messages."""

    def send(self, notification: Notification) -> None:
        """Send a message without waiting."""


class Storage(Protocol):
    """The part of the spool that the pipeline uses."""

    @property
    def count(self) -> int:
        """Number of rows."""

    @property
    def last(self) -> int:
        """The number of the last row that was ever added; 0 if there was none."""

    def report(self) -> dict[str, object]:
        """Return the figures for the status of the bridge; any thread may call this."""

    def add(self, records: Sequence[bytes], keep: int) -> None:
        """Append rows, numbered from ``last`` + 1, in one transaction.

        Args:
            records: the rows.
            keep: rows up to this one are sent and unconfirmed, and must not become part of a gap.

        Raises:
            SpoolError: nothing was added.
        """

    def head(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return up to ``limit`` rows after the row ``after``, in order.

        Raises:
            SpoolError: they cannot be read.
        """

    def remove_up_to(self, row: int) -> None:
        """Remove all rows up to and including ``row``.

        Raises:
            SpoolError: nothing was removed.
        """
