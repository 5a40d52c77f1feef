# SPDX-License-Identifier: Apache-2.0
"""Priorities in arguments: in upper or lower case, and by the names of logging and syslog."""

from notif_relay.priorities import OTHER_SPELLINGS
from notif_relayctl.command import utf8

OTHER_NAMES = f"in upper or lower case, or {', '.join(map(str.lower, OTHER_SPELLINGS))}"
"""What `priority` accepts in addition to the names in notifications, for a help text."""


def priority(text: str) -> str:
    """Convert an argument to a priority, or a pattern of priorities, as in notifications."""
    name = utf8(text).upper()
    return OTHER_SPELLINGS.get(name, name)
