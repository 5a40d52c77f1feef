# SPDX-License-Identifier: Apache-2.0
"""Escapes text for logs and terminals. Peers choose the names of their processes, and what they
send."""

import json
import os


def printable(text: str, encoding: str | None = None) -> str:
    """Return the text with every unprintable character escaped as in JSON.

    Args:
        text: the text.
        encoding: characters that this encoding lacks are escaped as well; `None` for none.
    """
    if _is_shown(text, encoding):
        return text
    return "".join(each if _is_shown(each, encoding) else escaped(each) for each in text)


def printable_path(path: str | bytes) -> str:
    """Return a path as printable text; the path may contain any bytes."""
    return printable(os.fsdecode(path))


def escaped(text: str) -> str:
    """Return the text as in a JSON string, with ASCII characters only."""
    return json.dumps(text)[1:-1]


def _is_shown(text: str, encoding: str | None) -> bool:
    if encoding is not None:
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return False
    return text.isprintable()
