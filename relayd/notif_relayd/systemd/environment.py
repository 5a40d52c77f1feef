# SPDX-License-Identifier: Apache-2.0
"""Numbers that the service manager passes in environment variables."""

import logging
import os

LOG = logging.getLogger(__name__)

MAX_DIGITS = 20
"""Decimal digits of the largest 64-bit number."""


def number(name: str) -> int | None:
    """Return the number in the environment variable `name`.

    Returns:
        A number of at most `MAX_DIGITS` digits; `None` if the variable is unset or empty, or if it
        holds anything else, which is logged.
    """
    text = os.environ.get(name, "")
    if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS:
        return int(text)
    if text:
        LOG.warning("the environment variable %s=%s is ignored: it is no such number", name, text)
    return None
