# SPDX-License-Identifier: Apache-2.0
"""What can be told about a running relay: the answers of the control socket.

The names are an interface: relayctl prints them and other people's monitoring reads them. Times
are in seconds, sizes in bytes; counters begin with the daemon.
"""

import os
import time

import msgspec

from notif_relay.version import __version__
from notif_relayd.fanout.fanout import Fanout
from notif_relayd.ingest.intake import Intake
from notif_relayd.peer import Peer


class Status(msgspec.Struct):
    """The relay as a whole."""

    version: str
    pid: int
    uptime_seconds: float
    producers: int
    subscribers: int
    records_received: int
    """Well-formed ones, from all producers."""
    records_delivered: int
    """One for each subscriber that got it."""
    records_dropped: int
    """One for each subscriber that was too slow for it."""
    records_rejected: int
    records_discarded: int
    """Those that came while nobody subscribed."""
    bytes_received: int
    bytes_delivered: int
    ring_bytes: int
    """Kept for subscribers that are behind; 0 while there is none."""
    ring_limit_bytes: int
    public_socket: str
    ingest_socket: str


class ConnectionStatus(msgspec.Struct):
    """What producers and subscribers have in common."""

    id: int
    """A number that no other connection has had."""
    pid: int
    command: str
    uid: int
    connected_seconds: float
    records: int
    bytes: int


class ProducerStatus(ConnectionStatus):
    """One connection to the private socket."""

    rejected: int


class SubscriberStatus(ConnectionStatus):
    """One connection to the public socket."""

    lag: int
    """Records in the ring that it has yet to get."""
    dropped: int
    """Records that it missed."""


class Reporter:
    """Puts the figures together when somebody asks."""

    def __init__(
        self, intake: Intake, fanout: Fanout, public_socket: str, ingest_socket: str
    ) -> None:
        self._intake = intake
        self._fanout = fanout
        self._public_socket = public_socket
        self._ingest_socket = ingest_socket
        self._since = time.monotonic()

    def status(self) -> Status:
        """The relay as a whole."""
        intake, fanout = self._intake, self._fanout
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_seconds=_seconds_since(self._since),
            producers=len(intake.producers),
            subscribers=len(fanout.subscribers),
            records_received=intake.received,
            records_delivered=fanout.delivered,
            records_dropped=fanout.dropped,
            records_rejected=intake.rejected.total(),
            records_discarded=fanout.discarded,
            bytes_received=intake.bytes_received,
            bytes_delivered=fanout.bytes_delivered,
            ring_bytes=fanout.store.size,
            ring_limit_bytes=fanout.store.limit,
            public_socket=self._public_socket,
            ingest_socket=self._ingest_socket,
        )

    def producers(self) -> list[ProducerStatus]:
        """One entry a connection, the oldest first."""
        return [
            ProducerStatus(
                each.id, *_identity(each.peer, each.since), each.records, each.bytes, each.rejected
            )
            for each in self._intake.producers.values()
        ]

    def subscribers(self) -> list[SubscriberStatus]:
        """One entry a connection, the oldest first."""
        return [
            SubscriberStatus(
                each.id,
                *_identity(each.peer, each.since),
                each.delivered,
                each.bytes,
                each.lag,
                each.dropped,
            )
            for each in self._fanout.subscribers.values()
        ]


def _identity(peer: Peer, since: float) -> tuple[int, str, int, float]:
    return peer.pid, peer.command, peer.uid, _seconds_since(since)


def _seconds_since(moment: float) -> float:
    return round(time.monotonic() - moment, 3)
