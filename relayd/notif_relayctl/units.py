# SPDX-License-Identifier: Apache-2.0
"""Numbers with units in the form that people read."""

import datetime as dt


def duration(seconds: float) -> str:
    """Return a duration as days, hours, minutes and seconds, for example ``3 days, 4:05:06``."""
    try:
        return str(dt.timedelta(seconds=int(seconds)))
    except OverflowError:
        return f"{seconds:g} s"


def size(number: float) -> str:
    """Return a number of bytes with its unit, for example ``1.5 MiB``."""
    value = number
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:  # noqa: PLR2004 (each unit is 1024 of the unit before)
            return f"{value:,} {unit}" if isinstance(value, int) else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"


def count(number: int, noun: str) -> str:
    """Return a number with a noun in the plural or, for 1, the singular: ``1,234 records``."""
    return f"{number:,} {noun.removesuffix('s') if number == 1 else noun}"
