# SPDX-License-Identifier: Apache-2.0
"""Durations in the form that people read."""

import datetime as dt


def duration(seconds: float) -> str:
    """Return a duration as days, hours, minutes and seconds, for example ``3 days, 4:05:06``."""
    try:
        return str(dt.timedelta(seconds=int(seconds)))
    except OverflowError:
        return f"{seconds:g} s"
