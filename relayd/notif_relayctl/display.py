# SPDX-License-Identifier: Apache-2.0
"""Text on standard output: only characters that its encoding has, measured in columns.

A wide character, for example a Chinese one, takes two columns of a terminal, and a combining
character none. rich knows the widths. It is imported only for text that is not ASCII.
"""

import codecs
import sys

from notif_relayctl.errors import missing_package
from notif_relayd.escaping import printable


def shown(text: str) -> str:
    """Return text with each character escaped as in JSON that the output cannot show."""
    return printable(text, sys.stdout.encoding)


def symbol(preferred: str, substitute: str) -> str:
    """Return the preferred text, or the substitute if the output cannot show it."""
    return preferred if shown(preferred) == preferred else substitute


def shown_json(line: str) -> str:
    """Return a line of JSON with each character escaped that the output cannot show.

    JSON has to be UTF-8 (RFC 8259). In any other encoding, it contains only ASCII characters.
    """
    is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
    return printable(line, "utf-8" if is_utf8 else "ascii")


def width(text: str) -> int:
    """Return the number of columns that a text takes."""
    if text.isascii():
        return len(text)
    try:
        from rich.cells import cell_len  # noqa: PLC0415 - slow to import
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    return cell_len(text)


def cropped(text: str, columns: int, mark: str = "") -> str:
    """Return the text with at most this number of columns, and the mark at its end if cropped."""
    if width(text) <= columns:
        return text
    columns = max(0, columns - width(mark))
    if text.isascii():
        return text[:columns] + mark
    from rich.cells import set_cell_size  # noqa: PLC0415 - slow to import

    return set_cell_size(text, columns) + mark
