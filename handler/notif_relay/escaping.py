# SPDX-License-Identifier: Apache-2.0
"""Shortens and escapes text for logs, error messages and ``repr``.

Producers choose the fields of notifications, and a field can have a megabyte.
"""

MAX_LENGTH = 100
"""Maximum number of characters of a field that are shown, before unprintable ones are escaped."""

_MAX_ARGUMENT_LENGTH = 200
"""The same for an argument of a function, which may be the longest path of a socket."""


def printable(text: str, max_length: int = MAX_LENGTH) -> str:
    """Return a text in one line, without control characters, and shortened if it is long."""
    if len(text) > max_length:
        text = text[: max_length - 3] + "..."
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def shown(value: object) -> str:
    """Return any value as printable text, for the error message about an argument."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - any object; also an integer with thousands of digits
        text = f"<{type(value).__name__}>"
    return printable(text, _MAX_ARGUMENT_LENGTH)
