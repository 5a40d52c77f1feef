# SPDX-License-Identifier: Apache-2.0
"""Escapes text for logs and terminals. Peers choose the names of their processes, and what they
send."""

import json
import os


def printable(text: str) -> str:
    """Return the text with every unprintable character escaped as in JSON."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def printable_path(path: str | bytes) -> str:
    """Return a path as printable text; the path may contain any bytes."""
    return printable(os.fsdecode(path))
