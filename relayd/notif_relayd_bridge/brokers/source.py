# SPDX-License-Identifier: Apache-2.0
"""The interface between the inbound pipeline and the client of a broker that it reads from.

A source reports messages in the order of the broker, and acknowledges them in the same order when
the pipeline asks for it. After a failure, the broker delivers every unacknowledged message again. A
message may therefore arrive twice, and none is lost.

A module of a source provides two functions, which have the types `SourceOptions` and `CreateSource`
and the names ``source_options`` and ``create_source``. It imports its client in ``create_source``;
see ``schemes``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from oslo_config import cfg

MAX_UNACKNOWLEDGED_BYTES = 16 * 1024 * 1024
"""Size of the unacknowledged messages at which a source stops reading, in bytes. One message more
may exceed it, or what the client has read ahead."""

MAX_MESSAGE_SIZE = 4 * 1024 * 1024
"""Size in bytes above which a message is not decoded but reported as unreadable, if the client can
skip it. An envelope can be a few times as large as its record."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages a source consumes, from the section [bridge]."""

    pool: str
    """Name under which the broker stores the position of the bridge: a queue of RabbitMQ, a
    consumer group of Kafka, a durable consumer of JetStream."""
    topics: tuple[str, ...] = ()
    """Topics or subjects; none for the default of the source."""
    exchanges: tuple[str, ...] = ()
    """Exchanges of RabbitMQ; none for the default."""


class SourceEvents(Protocol):
    """What a source reports. It may call these methods from any thread, one at a time.

    They do not wait, except for a call of ``acknowledge`` to return. So the source must not hold a
    lock that its method ``acknowledge`` takes.
    """

    def connected(self) -> None:
        """Report that messages will be received, and none is unacknowledged."""

    def received(self, record: bytes) -> None:
        """Report a message, which counts as unacknowledged.

        Args:
            record: the JSON object of a notification, with its six fields. The pipeline checks it.
        """

    def unreadable(self, reason: str) -> None:
        """Report a message that is no notification, in its place in the order.

        It counts as unacknowledged. The pipeline writes a gap record in its place.

        Args:
            reason: why, in a few words; without credentials.
        """

    def failed(self, reason: str) -> None:
        """Report that the connection is lost, or that an attempt to connect failed.

        The unacknowledged messages will be received again.

        Args:
            reason: why, in a few words; without credentials.
        """


class Source(Protocol):
    """The client of a broker, with a thread of its own.

    An idle source does not wake up, except for the heartbeats of its protocol.
    """

    max_unacknowledged: int
    """Maximum number of unacknowledged messages. They are in memory, and have at most
    `MAX_UNACKNOWLEDGED_BYTES`."""

    def start(self, events: SourceEvents) -> None:
        """Connect in the background, and again after each failure, with pauses of `Backoff`.

        Args:
            events: is told of the messages; ``start`` itself calls none of its methods.
        """

    def acknowledge(self, count: int) -> None:
        """Acknowledge the oldest messages without waiting for the network.

        A call between the failure of the connection and the report ``failed`` has no effect. One
        thread at a time calls this method, never within a method of ``SourceEvents``.

        Args:
            count: number of messages, at least 1: received ones and unreadable ones.
        """

    def close(self) -> None:
        """Send outstanding acknowledgements, disconnect, and end the thread.

        The time is bounded, and a further call does nothing. No method of ``SourceEvents`` is
        called after this method has returned.
        """


SourceOptions = Callable[[], "list[tuple[str, list[cfg.Opt]]]"]
"""Returns the sections of the configuration file that belong to the source, with their options."""

CreateSource = Callable[[str, "cfg.ConfigOpts", Selection], Source]
"""Returns a source for a URL, the configuration, in which the source's options are registered, and
a selection.

It connects to nothing.

Raises:
    StartError: the URL, an option or the selection is invalid; the message contains no credentials.
    ModuleNotFoundError: the client is not installed.
"""
