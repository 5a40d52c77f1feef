# SPDX-License-Identifier: Apache-2.0
from typing import Final, TypeVar

from notif_relayd.records.validator import RoutingKey

MOST_SOCKETS: Final[int]
"""That may be given."""

_Producer = TypeVar("_Producer")

def routing_keys_of(lines: bytes, rules: tuple[bytes, int], /) -> list[RoutingKey]:
    """The routing_keys of records that these lines are, if all are plain good ones; otherwise none.

    A record that is good may still not be plain: when it does not begin with its object, has more
    than 128 KiB, a number beyond 64 bits, or more than 63 objects and lists in one another.

    Args:
        lines: a run of whole lines; there is nothing good about others.
        rules: what the event_type of a plain record does not begin with, and the bytes that it may
            have, with its newline.
    """

def wait(
    epoll: int,
    seconds: float,
    producers: dict[int, _Producer],
    read_size: int,
    rules: tuple[bytes, int],
    sockets: list[int],
    most: int,
    peek: bool,
    /,
) -> tuple[
    float,
    list[tuple[int, int]],
    tuple[_Producer, bytes, list[RoutingKey], list[int]] | None,
]:
    """Wait until something happens; where that is records from one producer, hand them on.

    Args:
        epoll: the descriptor of an epoll.
        seconds: how long to wait, rounded up to milliseconds; below 0 for ever.
        producers: by the descriptors of their sockets, those who are read if they alone have
            something to be read. It is taken for granted that a record begins there.
        read_size: bytes to read at once.
        rules: see `routing_keys_of`.
        sockets: where to send a run whose records are all good, `MOST_SOCKETS` at most.
        most: bytes of a run from which on it is not sent.
        peek: whether to look for passed file descriptors before each read: a producer that has
            passed any is not read, and reported as an event.

    Returns:
        When the wait was over, by the monotonic clock; what has happened, as `select.epoll.poll`
        tells it; and where a producer was read, which is not in there then: who it was, what was
        read, what `routing_keys_of` says of it, and for each socket the bytes that it took, or
        below zero the number of its error. There are no results where nothing was sent.

    Raises:
        OSError: there is no such epoll.
        ValueError: there are more sockets than that, or `read_size` is less than 1.
    """
