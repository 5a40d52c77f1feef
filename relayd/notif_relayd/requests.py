# SPDX-License-Identifier: Apache-2.0
"""What a subscriber may ask for, and the sentence it gets when it asks for something else."""

import msgspec

from notif_relayd.filters import Filter, FilterError

MAX_SIZE = 64 * 1024
"""Bytes of the longest request line, its newline included."""


class RequestError(ValueError):
    """One sentence for the subscriber."""


def parse(line: bytes) -> tuple[Filter, dict[str, list[str]]]:
    """The filter that a request line asks for, ready for use and as it was written.

    Raises:
        RequestError: it asks for something else, or for nothing that can be understood.
    """
    try:
        asked = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestError("The request is not JSON.") from None
    if not isinstance(asked, dict) or list(asked) != ["filter"]:
        raise RequestError('The request is not of the form {"filter": {...}}.')
    try:
        return Filter.parse(asked["filter"]), asked["filter"]
    except FilterError as error:
        raise RequestError(str(error)) from None
