# SPDX-License-Identifier: Apache-2.0
"""Whether systemd runs, and the numbers that it passes in environment variables."""

import logging
import os

LOG = logging.getLogger(__name__)

MAX_DIGITS = 20
"""Maximum number of decimal digits of a 64-bit number."""


BOOTED = "/run/systemd/system"
"""This directory exists if systemd is the service manager, sd_booted(3)."""


def booted() -> bool:
    """Return whether systemd is the service manager of this host."""
    return os.path.isdir(BOOTED)


def number(name: str) -> int | None:
    """Return the number in the environment variable `name`.

    Returns:
        A number of at most `MAX_DIGITS` digits; `None` if the variable is unset or empty, or if its
        value is not such a number, which is logged.
    """
    text = os.environ.get(name, "")
    if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS:
        return int(text)
    if text:
        LOG.warning("ignoring %s=%s: not a number of at most 20 digits", name, text)
    return None
