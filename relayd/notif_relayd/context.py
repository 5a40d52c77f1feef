# SPDX-License-Identifier: Apache-2.0
"""The objects that all parts of the data path share."""

from collections.abc import Iterator
from dataclasses import dataclass

from notif_relayd.net.loop import Loop
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.systemd.fdstore import FdStore


@dataclass(frozen=True, slots=True)
class Context:
    """What producers and subscribers have in common; one for each relay."""

    loop: Loop
    log: RateLimitedLog
    """For warnings about peers that misbehave."""
    ids: Iterator[int]
    """Numbers of connections; no number is used twice, not even by a successor of this process."""
    fdstore: FdStore
    """Keeps connections for the next process."""
