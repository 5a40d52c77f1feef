# SPDX-License-Identifier: Apache-2.0
"""Finds the connection that has to give up memory when a limit for all users is exceeded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from notif_relayd.peer import Peer


class _Connection(Protocol):
    peer: Peer


_AnyConnection = TypeVar("_AnyConnection", bound=_Connection)


def largest_holder(
    connections: Collection[_AnyConnection], held: Callable[[_AnyConnection], float]
) -> tuple[_AnyConnection, int]:
    """Return the connection that holds the most, of the user that holds the most.

    Other users are not affected by one that holds many small parts.

    Args:
        connections: at least one connection.
        held: returns the bytes that a connection holds.

    Returns:
        The connection, and the number of bytes that its user holds, each part rounded up.
    """
    by_user: Counter[int] = Counter()
    for each in connections:
        by_user[each.peer.uid] += math.ceil(held(each))
    uid, total = by_user.most_common(1)[0]
    return max((each for each in connections if each.peer.uid == uid), key=held), total
