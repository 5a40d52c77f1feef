# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Final, TypeVar

from notif_relayd.validator import Header

MOST_SOCKETS: Final[int]
"""That may be given."""

_Producer = TypeVar("_Producer")

def wait(
    epoll: int,
    seconds: float,
    producers: dict[int, _Producer],
    read_size: int,
    rules: tuple[Callable[[bytes], Header], str, int],
    sockets: list[int],
    most: int,
    /,
) -> tuple[
    float,
    list[tuple[int, int]],
    tuple[_Producer, bytes, list[Header] | None, list[int]] | None,
]:
    """Wait until something happens; where that is records from one producer, hand them on.

    Args:
        epoll: the descriptor of an epoll.
        seconds: how long to wait, rounded up to milliseconds; below 0 for ever.
        producers: by the descriptors of their sockets, those who are read if they alone have
            something to be read. It is taken for granted that a record begins there.
        read_size: bytes to read at once.
        rules: what decodes a record or raises, what its event_type must not begin with, and the
            bytes that it may have, with its newline.
        sockets: where to send a run whose records are all good, `MOST_SOCKETS` at most.
        most: bytes of a run from which on it is not sent.

    Returns:
        When the wait was over, by the monotonic clock; what has happened, as `select.epoll.poll`
        tells it; and where a producer was read, which is not in there then: who it was, what was
        read, the headers of the records, and for each socket the bytes that it took, or below zero
        the number of its error. There are no headers where not all of it is good as it is, or where
        that cannot be told here: not ASCII, not ended by a newline. Where nothing was sent there
        are no results.

    Raises:
        OSError: there is no such epoll.
        ValueError: there are more sockets than that, or `read_size` is less than 1.
    """
