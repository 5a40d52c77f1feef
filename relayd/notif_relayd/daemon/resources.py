# SPDX-License-Identifier: Apache-2.0
"""How many descriptors the process and the service manager can hold."""

import contextlib
import logging
import resource

from notif_relayd.settings import Limits
from notif_relayd.systemd import fdstore
from notif_relayd.systemd.environment import number

LOG = logging.getLogger(__name__)

OWN_DESCRIPTORS = 64
"""Descriptors in addition to those of producers and subscribers: sockets, epoll, log files, and
connections to the control socket."""


def raise_descriptor_limit(limits: Limits) -> None:
    """Raise the process's limit on open files to what `limits` require; warn if it stays lower."""
    # A subscriber takes two: its connection, and a memfd with its last request.
    required = (
        limits.producers.max_connections + 2 * limits.subscribers.max_connections + OWN_DESCRIPTORS
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(required, hard):
        # A sandbox may forbid it; the warning depends on the limit that is then in force.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(required, hard), hard))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < required:
        LOG.warning(
            "the process may open %d files, but max_producers and max_subscribers require %d: "
            "raise LimitNOFILE= or lower these options",
            allowed,
            required,
        )


def fdstore_capacity() -> int:
    """Return how many descriptors the service manager keeps; `fdstore.UNKNOWN` if not stated."""
    # systemd sets the first variable since version 254. The unit sets the second one.
    for name in ("FDSTORE", "RELAYD_FDSTORE"):
        capacity = number(name)
        if capacity is not None:
            return capacity
    return fdstore.UNKNOWN
