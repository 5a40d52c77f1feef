# SPDX-License-Identifier: Apache-2.0
"""The fast path: from a producer's socket to the subscribers' sockets in one compiled call.

On a quiet host most iterations of the loop carry one record of one producer. After a sleep the
processor's caches hold little of what an iteration needs, so the time until the record is sent
depends on how much memory the relay touches. The compiled call that waits for events therefore
reads and sends such a record by itself. Without the compiled module every record takes the usual
path, with the same result: a single record then takes 1.35 to 1.75 times as long at the median.

The contract between `_native.wait`, this module, and the two parts that it connects:

1. `_native.wait` reads only if the single event is input of a *steady* producer: one that has no
   partial record, no rejected records lately, and no passed file descriptors. It reads once.
2. It sends only if every line that it read is a plain valid record, and the batch is shorter than
   the threshold. It sends the batch once to each recipient that may get so many records, in the
   order of the list, and does not wait for room in a socket.
3. It returns one result for each recipient, in the same order, or none if it did not send. Every
   event that it did not handle is returned, and nothing was read for it.
4. This module passes the list of recipients to the fan-out together with the results, before
   anything else happens. The list stays valid meanwhile because subscribers come and go only in
   callbacks of the loop, and `wait` calls none.
5. If the batch is not valid or not plain, the intake gets the bytes as if it had read them.
6. The order of records is kept: the intake publishes what it holds before the loop waits again.

This module imports neither the intake nor the fan-out, and only the relay imports this module.
"""

import logging
import socket
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from notif_relayd.net import ancillary
from notif_relayd.net.loop import Events
from notif_relayd.records.validator import RoutingKey

try:
    from notif_relayd import _native
except ImportError as error:
    WHY_NOT = str(error)
else:
    WHY_NOT = ""

LOG = logging.getLogger(__name__)

_Producer = TypeVar("_Producer")


class _Recipient(Protocol):
    socket: socket.socket


_AnyRecipient = TypeVar("_AnyRecipient", bound=_Recipient)


class Source(Protocol[_Producer]):
    """The part that records come from: the intake."""

    read_size: int
    """Bytes of one read."""
    rules: tuple[bytes, int]
    """What a plain valid record is; see `_native.routing_keys_of`."""
    steady: dict[int, _Producer]
    """The steady producers, by file descriptor."""

    def count(self, producer: _Producer, size: int, records: int) -> None:
        """Count a batch that was read and found valid; `size` is in bytes."""

    def account(self, producer: _Producer, seconds: float) -> None:
        """Charge what `Sink.publish` returned."""

    def take(self, producer: _Producer, data: bytes) -> None:
        """Handle bytes that were read from a producer."""


class Sink(Protocol[_AnyRecipient]):
    """The part that records go to: the fan-out."""

    def fast_recipients(self, limit: int) -> tuple[list[_AnyRecipient], list[int], int]:
        """Return at most `limit` recipients, the maximum number of records that each of them may
        get, and the size from which on a batch is not sent."""

    def publish(
        self,
        batch: bytes,
        routing_keys: list[RoutingKey],
        recipients: Sequence[_AnyRecipient],
        results: Sequence[int | None],
    ) -> float:
        """Publish a batch that has been sent to `recipients`, unless `results` is empty.

        The result of a recipient that may not get so many records is `None`.
        """


class Native(Protocol):
    """The compiled module; see `_native.pyi`."""

    @property
    def MAX_SOCKETS(self) -> int: ...  # noqa: N802 - the name of a constant

    def wait(
        self,
        epoll: int,
        seconds: float,
        producers: dict[int, _Producer],
        read_size: int,
        rules: tuple[bytes, int],
        sockets: list[int],
        max_records: list[int],
        threshold: int,
        peek: bool,
        /,
    ) -> tuple[
        float, Events, tuple[_Producer, bytes, list[RoutingKey], list[int | None]] | None
    ]: ...


class FastPath:
    """A waiter for the loop that relays plain records while it waits.

    Args:
        native: the compiled module.
    """

    def __init__(self, native: Native) -> None:
        self._wait = native.wait
        self._max_recipients = native.MAX_SOCKETS

    def connect(self, source: Source[_Producer], sink: Sink[_AnyRecipient]) -> None:
        """Set the two ends; must be called before the loop waits for the first time."""
        self._source: Source[Any] = source
        self._sink: Sink[Any] = sink
        self._peek = not ancillary.kernel_refuses()

    def wait(self, epoll: int, seconds: float) -> tuple[float, Events]:
        """Wait as `net.loop.Waiter.wait` says; the source must not hold unpublished records.

        Raises:
            OSError: the descriptor is not an epoll.
        """
        source = self._source
        recipients, max_records, threshold = self._sink.fast_recipients(self._max_recipients)
        awake, events, relayed = self._wait(
            epoll,
            seconds,
            source.steady,
            source.read_size,
            source.rules,
            [each.socket.fileno() for each in recipients],
            max_records,
            threshold,
            self._peek,
        )
        if relayed is not None:
            producer, batch, routing_keys, results = relayed
            if routing_keys:
                source.count(producer, len(batch), len(routing_keys))
                seconds = self._sink.publish(batch, routing_keys, recipients, results)
                source.account(producer, seconds)
            else:
                source.take(producer, batch)
        return awake, events


def load() -> FastPath | None:
    """Return a fast path, or `None` if the module was not compiled."""
    if WHY_NOT:
        LOG.info("the compiled fast path is missing, records take longer: %s", WHY_NOT)
        return None
    return FastPath(_native)
