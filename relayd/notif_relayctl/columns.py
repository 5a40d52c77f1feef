# SPDX-License-Identifier: Apache-2.0
"""Values in the columns of cliff's tables: in readable form in a table, plain in other formats."""

from cliff.columns import FormattableColumn

from notif_relayctl import units
from notif_relayctl.display import shown
from notif_relayd.escaping import printable


class Text(FormattableColumn):  # type: ignore[type-arg]  # generic from cliff 4.9 on
    """Text from another process or a file, which may contain any characters."""

    def human_readable(self) -> str:
        """Return the text for a table."""
        return shown(self._value)

    def machine_readable(self) -> str:
        """Return the text for a program, without control characters."""
        return printable(self._value)


class Nullable(FormattableColumn):  # type: ignore[type-arg]
    """A value, or null; in a table a dash instead of null."""

    def __lt__(self, other: object) -> bool:
        """Compare for ``--sort-column``; null is greater than any value, as in other columns."""
        if not isinstance(other, Nullable):
            return False
        return bool((self._value is None, self._value) < (other._value is None, other._value))

    def human_readable(self) -> str:
        """Return the text for a table."""
        return "-" if self._value is None else str(self._value)


class Duration(Nullable):
    """Seconds, or null; in a table days, hours, minutes and seconds, or a dash."""

    def human_readable(self) -> str:
        """Return the duration for a table, for example ``3 days, 4:05:06``."""
        return "-" if self._value is None else units.duration(self._value)


class Size(Nullable):
    """Bytes, or null; in a table with a unit, or a dash."""

    def human_readable(self) -> str:
        """Return the size for a table, for example ``1.5 MiB``."""
        return "-" if self._value is None else units.size(self._value)


class Records(FormattableColumn):  # type: ignore[type-arg]
    """A number of records; in a table with this word."""

    def human_readable(self) -> str:
        """Return the number for a table, for example ``1,234 records``."""
        return units.count(self._value, "records")
