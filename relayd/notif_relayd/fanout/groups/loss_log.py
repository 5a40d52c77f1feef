# SPDX-License-Identifier: Apache-2.0
"""Logs which groups lose records, and when they have caught up or ended.

As for subscribers, the start of a loss is rate-limited, and its end is logged only if the start
was. What was logged is saved with the group, so that a restart does not repeat it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from notif_relayd.context import Context
from notif_relayd.escaping import printable
from notif_relayd.fanout.groups.live_group import LiveGroup

LOG = logging.getLogger(__name__)

INTERVAL = 1.0
"""Minimum interval, in seconds, between two examinations of all groups: 1,000 take about 2 ms."""

MAX_NAME = 64
"""Characters of the name of a group that are logged; a valid name is not longer."""


class GroupLossLog:
    """The messages about losses of all groups.

    Args:
        context: the loop and the log.
        groups: all groups.
    """

    def __init__(self, context: Context, groups: Collection[LiveGroup]) -> None:
        self._call_in = context.loop.call_in
        self._log = context.log
        self._groups = groups
        self._is_paused = False
        """Whether the groups were examined less than `INTERVAL` ago."""
        self._is_due = False
        """Whether records may have been lost since then."""

    def update(self) -> None:
        """Log which groups have begun to lose records; call when some may have lost any."""
        if self._is_paused or not self._groups:
            self._is_due = self._is_paused
            return
        for live in self._groups:
            lost = live.group.lost
            if lost > live.lost and live.lost_before is None:
                self._start(live, lost - live.lost)
            self.settle(live)
            if live.group.is_caught_up:
                live.lost = lost
        self._is_paused = True
        self._call_in(INTERVAL, self.resume)

    def resume(self) -> None:
        """Examine the groups again if some may have lost records meanwhile."""
        self._is_paused = False
        if self._is_due:
            self._is_due = False
            self.update()

    def _start(self, live: LiveGroup, lost: int) -> None:
        is_logged = self._log.warning(
            "group %s of uid %d reads too slowly, or has no member, and loses records: "
            "%d lost so far",
            _name_of(live),
            live.key[0],
            lost,
            subject=live.key,
        )
        if is_logged:
            live.lost_before = live.lost

    def settle(self, live: LiveGroup) -> None:
        """Log the end of a loss if a group has caught up and the start of the loss was logged."""
        if live.lost_before is not None and live.group.is_caught_up:
            name, uid, lost = _name_of(live), live.key[0], live.group.lost - live.lost_before
            LOG.info("group %s of uid %d has caught up: %d records were lost", name, uid, lost)
            live.lost, live.lost_before = live.group.lost, None

    def ended(self, live: LiveGroup) -> None:
        """Log that a group will not catch up."""
        if live.lost_before is not None:
            LOG.info(
                "group %s of uid %d ended and had not caught up: %d records were lost",
                _name_of(live),
                live.key[0],
                live.group.lost - live.lost_before,
            )


def _name_of(live: LiveGroup) -> str:
    return printable(live.key[1][:MAX_NAME])
