# SPDX-License-Identifier: Apache-2.0
"""Sends one batch to current subscribers, and tells which of them did not get all of it."""

from collections.abc import Callable, Iterable
from socket import socket

from notif_relayd.fanout.subscriber import Subscriber
from notif_relayd.net.loop import TRANSIENT_ERRORS

Outcome = tuple[list[tuple[Subscriber, int]], list[Subscriber]]
"""The subscribers whose sockets did not take the whole batch, each with the number of bytes that
are missing; and those of them whose connection has failed."""


def send_batch(
    size: int, subscribers: Iterable[Subscriber], send: Callable[[socket], int]
) -> Outcome:
    """Send a batch to each subscriber.

    Args:
        size: bytes of the batch.
        subscribers: current subscribers.
        send: sends the batch to one socket, as `socket.send` does.
    """
    late: list[tuple[Subscriber, int]] = []
    failed: list[Subscriber] = []
    for subscriber in subscribers:
        try:
            sent = send(subscriber.socket)
        except OSError as error:
            if error.errno not in TRANSIENT_ERRORS:
                failed.append(subscriber)
            sent = 0
        subscriber.bytes += sent
        if sent != size:
            late.append((subscriber, size - sent))
    return late, failed


def note_sends(
    size: int, recipients: Iterable[Subscriber], results: Iterable[int | None]
) -> Outcome:
    """Do what `send_batch` does for a batch that the fast path has sent.

    Args:
        size: bytes of the batch.
        recipients: the subscribers, all of them current.
        results: for each recipient the bytes that its socket took, the negative error number, or
            `None` if the batch was not sent to it.
    """
    late: list[tuple[Subscriber, int]] = []
    failed: list[Subscriber] = []
    for subscriber, result in zip(recipients, results, strict=True):
        sent = result or 0
        if sent < 0:
            if -sent not in TRANSIENT_ERRORS:
                failed.append(subscriber)
            sent = 0
        subscriber.bytes += sent
        if sent != size:
            late.append((subscriber, size - sent))
    return late, failed
