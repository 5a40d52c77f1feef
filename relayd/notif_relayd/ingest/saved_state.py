# SPDX-License-Identifier: Apache-2.0
"""What the intake saves for the next process."""

from __future__ import annotations

import msgspec

from notif_relayd.access.connection_stats import ConnectionStatsState
from notif_relayd.peer import Peer
from notif_relayd.records.gaps import ProducerGapsState


class ProducerState(msgspec.Struct, tag="producer"):
    """One connection to the private socket."""

    id: int
    peer: Peer
    since: float
    """Time of the connect, by CLOCK_MONOTONIC, which continues until the host is rebooted."""
    bytes_read: int = msgspec.field(name="bytes")
    records: int
    rejected: int
    partial: bytes = msgspec.field(name="rest")
    """The beginning of a record whose end has not been received."""
    skipping: bool
    """Whether the rest of the current line is skipped because the line is too long."""


class IntakeState(msgspec.Struct):
    """Counters of the intake, and its producers."""

    received: int
    bytes_received: int
    rejected: dict[str, int]
    """Rejected records, by the name of the reason."""
    producers: list[ProducerState]
    connections: ConnectionStatsState | None = None
    producer_gaps: ProducerGapsState | None = msgspec.field(default=None, name="losses")
