# SPDX-License-Identifier: Apache-2.0
"""Makes text safe to show: peers choose the names of their processes and much of what they send."""

import json
import os


def printable(text: str) -> str:
    """Return the text with every character that could control a terminal escaped as in JSON."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def printable_path(path: str | bytes) -> str:
    """Return a path as text that can be encoded in UTF-8, whatever its bytes are."""
    return printable(os.fsdecode(path))
