# SPDX-License-Identifier: Apache-2.0
"""Priorities in arguments: in upper or lower case, and by the names of logging and syslog."""

import argparse

from notif_relay.priorities import OTHER_SPELLINGS, PRIORITIES
from notif_relayctl.command import utf8
from notif_relayd.errors import nearest, unknown

OTHER_NAMES = f"in upper or lower case, or {', '.join(map(str.lower, OTHER_SPELLINGS))}"
"""What `priority` accepts in addition to the names in notifications, for a help text."""


def priority(text: str) -> str:
    """Convert an argument to a priority, or a pattern of priorities, as in notifications."""
    name = utf8(text).upper()
    return OTHER_SPELLINGS.get(name, name)


def priority_pattern(text: str) -> str:
    """Convert an argument as `priority` does; suggest a priority for a misspelt one.

    The library refuses other patterns that match no notification.
    """
    name = priority(text)
    if name not in PRIORITIES and not set(name) & set("*?[") and nearest(name, PRIORITIES):
        raise argparse.ArgumentTypeError(unknown("priority", name, PRIORITIES))
    return name
