# SPDX-License-Identifier: Apache-2.0
"""Requests of subscribers: reading, validation, and the memory that is charged for them.

The filter of a request stays in memory while it is in force, and so does the request, in the file
descriptor store. Both are charged to the user, together with the answer, which may wait for a
subscriber that does not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from notif_relay import records
from notif_relay.request import MAX_REQUEST_SIZE
from notif_relayd.records.filters import Filter, FilterError

PAGE_SIZE = 4096
"""Granularity of the size of a memfd, in bytes."""

STREAM_COST = 2048
"""Bytes charged for the stream that a filter needs."""


class RequestError(ValueError):
    """A request is invalid; the message is one sentence for the subscriber."""


class RequestBuffer:
    """Unhandled input of a subscriber, at most `MAX_REQUEST_SIZE` bytes."""

    __slots__ = ("_data", "_searched")

    def __init__(self) -> None:
        self._data = bytearray()
        self._searched = 0
        """Number of bytes at the beginning that contain no newline; each byte is searched once."""

    def __len__(self) -> int:
        return len(self._data)

    @property
    def remaining(self) -> int:
        """Number of bytes that may be added."""
        return MAX_REQUEST_SIZE - len(self._data)

    def feed(self, data: bytes) -> None:
        """Add data that was read; at most `remaining` bytes."""
        self._data += data

    def clear(self) -> None:
        """Discard the content."""
        self._data = bytearray()
        self._searched = 0

    def is_complete(self) -> bool:
        """Return whether `next_line` would return a line or raise an error."""
        return self._find() >= 0 or not self.remaining

    def next_line(self) -> bytes | None:
        """Remove and return the first line, without its newline; `None` if it is not complete.

        Raises:
            RequestError: the line is too long.
        """
        end = self._find()
        if end >= 0:
            line = bytes(self._data[:end])
            del self._data[: end + 1]
            self._searched = 0
            return line
        if not self.remaining:
            raise RequestError(f"The request is longer than {MAX_REQUEST_SIZE} bytes.")
        return None

    def save(self) -> bytes:
        """Return the content."""
        return bytes(self._data)

    def _find(self) -> int:
        found = self._data.find(b"\n", self._searched)
        if found < 0:
            self._searched = len(self._data)
        return found


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request."""

    filter: Filter
    requested: dict[str, list[str]]
    """The filter as the request states it, for the answer."""

    @property
    def line(self) -> bytes:
        """The request in its shortest form, for the file descriptor store."""
        return msgspec.json.encode({"filter": self.requested})

    @property
    def charge(self) -> int:
        """Upper bound of the memory for the filter, the stored request and the answer, in bytes."""
        size = len(self.line)
        return self.filter.cost + size + -(-size // PAGE_SIZE) * PAGE_SIZE + STREAM_COST

    @property
    def answer(self) -> bytes:
        """The record that confirms the filter and precedes the first record that passes it."""
        return records.subscribed(self.requested)


def parse(line: bytes) -> Request:
    """Parse a request line.

    Raises:
        RequestError: the line is not a valid request.
    """
    try:
        content = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestError("The request is not JSON.") from None
    if not isinstance(content, dict) or list(content) != ["filter"]:
        raise RequestError('The request is not of the form {"filter": {...}}.')
    try:
        return Request(Filter.parse(content["filter"]), content["filter"])
    except FilterError as error:
        raise RequestError(str(error)) from None
