# SPDX-License-Identifier: Apache-2.0
"""The compiled part of the fast path; `fastpath` states the contract. No state is kept here."""

from typing import Final, TypeVar

from notif_relayd.records.validator import RoutingKey

MAX_SOCKETS: Final[int]
"""Sockets that one call of `wait` can send to."""

_Producer = TypeVar("_Producer")

def routing_keys_of(lines: bytes, rules: tuple[bytes, int], /) -> list[RoutingKey]:
    """Return the routing keys of a batch if all of its records are valid and plain.

    A valid record is not plain if its first byte is not a brace, or if it has more than 128 KiB, a
    number that does not fit into 64 bits, or more than 63 nested objects and lists.

    Args:
        lines: the batch; its last byte must be a newline.
        rules: the prefix that the event_type of a plain record must not have, and the maximum size
            of a record in bytes, its newline included.

    Returns:
        One routing key for each line, in order; an empty list if any line is not a plain record.
    """

def wait(
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
    float,
    list[tuple[int, int]],
    tuple[_Producer, bytes, list[RoutingKey], list[int | None]] | None,
]:
    """Wait for events; if the only one is input of a producer, read it and send the batch.

    Args:
        epoll: the descriptor of an epoll.
        seconds: the timeout, rounded up to milliseconds; below 0 to wait without one.
        producers: by file descriptor, the producers that may be read. The next byte of each must
            be the first one of a record.
        read_size: maximum number of bytes to read.
        rules: see `routing_keys_of`.
        sockets: descriptors to send a batch of plain records to, at most `MAX_SOCKETS`.
        max_records: for each of `sockets` the number of records from which on a batch with more is
            not sent to it.
        threshold: size in bytes from which on a batch is not sent.
        peek: whether to look for passed file descriptors before the read. A producer that has
            passed any is not read, and its event is returned.

    Returns:
        The time at which the wait ended, by the monotonic clock; the events, as
        `select.epoll.poll` returns them; and `None`, or, if a producer was read, a tuple: the
        producer, the bytes that were read, their routing keys as `routing_keys_of` returns them,
        and for each of `sockets`, in the same order, the number of bytes that it took, the negative
        error number, or `None` if the batch has more than its `max_records`. The results are empty
        if the batch was not sent. The event of a producer that was read is not returned.

    Raises:
        OSError: the descriptor is not an epoll.
        ValueError: there are more than `MAX_SOCKETS` sockets, `max_records` has another length, a
            descriptor is not valid, or `read_size` is less than 1.
    """
