# SPDX-License-Identifier: Apache-2.0
"""What a subscriber may ask for, and the sentence it gets when it asks for something else."""

import msgspec

MAX_SIZE = 64 * 1024
"""Bytes of the longest request line, its newline included."""


def refusal(request: bytes) -> str:
    """Why `request`, as far as it was read, cannot be met."""
    line, newline, _ = request.partition(b"\n")
    if not newline or len(line) >= MAX_SIZE:
        return f"The request is longer than {MAX_SIZE} bytes."
    try:
        asked = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "The request is not JSON."
    if not isinstance(asked, dict) or list(asked) != ["filter"]:
        return 'The request is not of the form {"filter": {...}}.'
    return "This version of the relay has no filters: read everything, and choose."
