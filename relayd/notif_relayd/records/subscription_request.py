# SPDX-License-Identifier: Apache-2.0
"""Requests of subscribers: reading, validation, and the memory that is charged for them.

The filter of a request stays in memory while it is in force, and so does the request, in the file
descriptor store. Both are charged to the user, together with the answer, which may wait for a
subscriber that does not read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec

from notif_relay import records
from notif_relay.group import MAX_GROUP_NAME, MAX_WINDOW, GroupRequest, is_group_name
from notif_relay.request import MAX_REQUEST_SIZE
from notif_relayd.records.filters import Filter, FilterError

_MAX_FLOAT = sys.float_info.max
"""An integer in JSON can be greater; it cannot be compared with a time, or formatted as one."""

UNFINISHED_COST = 120
"""Bytes charged for each record of a window: the entry of a record that does not follow the one
before it, in CPython 3.11. The entry of a gap record of the relay, of which there are few, takes
three times as many."""

KEYS = ("filter", "group", "window", "hold")
"""Keys of a request; the key "done" is not combined with others."""

NOT_WINDOWED = '"done" requires a group and a "window", which an earlier request states.'
"""Error for a subscriber that has no unfinished records to report."""

PAGE_SIZE = 4096
"""Granularity of the size of a memfd, in bytes."""

STREAM_COST = 2048
"""Bytes charged for the stream that a filter needs."""


class RequestError(ValueError):
    """A request is invalid; the message is one sentence for the subscriber."""


class Done(msgspec.Struct, forbid_unknown_fields=True):
    """The request that reports finished notifications."""

    done: Annotated[int, msgspec.Meta(ge=0)]
    """Number of notifications and gap records since the answer."""
    group_since: str | None = None
    """When the group of that answer began; the request is for the present group if it is absent."""


_decode_done = msgspec.json.Decoder(Done).decode


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

    def is_blank(self) -> bool:
        """Return whether the content is empty or only white space."""
        return not self._data or self._data.isspace()

    def is_complete(self) -> bool:
        """Return whether `next_line` may return a line or raise an error."""
        return self._find() >= 0 or not self.remaining

    def next_line(self) -> bytes | None:
        """Remove and return the first line, without its newline; `None` if it is not complete.

        White space before it, and thus blank lines, are removed as well.

        Raises:
            RequestError: the line is too long.
        """
        if self._data[:1].isspace():
            self._data = self._data.lstrip()
            self._searched = 0
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
    requested: dict[str, Any]
    """The filter as the request states it, for the answer."""
    group: GroupRequest | None = None
    """The group that the subscriber joins, if any."""

    @property
    def line(self) -> bytes:
        """The request in its shortest form, for the file descriptor store."""
        keys = {} if self.group is None else self.group.keys
        return msgspec.json.encode({"filter": self.requested} | keys)

    @property
    def charge(self) -> int:
        """Upper bound of the memory for the filter, the stored request and the answer, in bytes.

        For a member of a group, it includes the memory for unfinished records.
        """
        size = len(self.line)
        stored = size + -(-size // PAGE_SIZE) * PAGE_SIZE
        window = 0 if self.group is None else self.group.window or 0
        return self.filter.cost + stored + STREAM_COST + window * UNFINISHED_COST

    def answer(self, notice: str = "", group_since: str = "") -> bytes:
        """Return the record that confirms the filter and precedes the first record that passes it.

        Args:
            notice: a sentence about the access rules for the subscriber; none if it is empty.
            group_since: when the group began; empty without a group.
        """
        keys = {} if self.group is None else self.group.keys
        if group_since:
            keys[records.GROUP_SINCE] = group_since
        if notice:
            keys[records.NOTICE] = notice
        return records.subscribed(self.requested | keys)


def parse_done(line: bytes) -> Done | None:
    """Return a report of finished notifications, or `None` for any other request."""
    try:
        return _decode_done(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def parse(line: bytes) -> Request:
    """Parse a request line.

    Raises:
        RequestError: the line is not a valid request.
    """
    try:
        content = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestError("The request is not JSON.") from None
    if isinstance(content, dict) and "done" in content:
        raise _done_error(content, line)
    if not isinstance(content, dict) or not content.keys() & {"filter", "group"}:
        raise RequestError('The request is not an object with the key "filter" or "group".')
    if unknown := content.keys() - set(KEYS):
        raise RequestError(
            f"Unknown key {min(unknown)!r} in the request; the keys are {', '.join(KEYS)}."
        )
    requested = content.get("filter", {})
    try:
        return Request(Filter.parse(requested), requested, _group(content))
    except FilterError as error:
        raise RequestError(str(error)) from None


def _done_error(content: dict[str, object], line: bytes) -> RequestError:
    """Return the error for a request that has the key "done" and is not handled as such."""
    if others := content.keys() - {"done", records.GROUP_SINCE}:
        return RequestError(
            f'"{min(others)}" is not a key of a request with "done"; send it in another request.'
        )
    if not isinstance(content.get(records.GROUP_SINCE, ""), str):
        return RequestError(f'"{records.GROUP_SINCE}" is not that of an answer.')
    if parse_done(line) is None:
        return RequestError('"done" is not an integer that is 0 or greater.')
    return RequestError(NOT_WINDOWED)


def _group(content: dict[str, object]) -> GroupRequest | None:
    if "group" not in content:
        if misplaced := content.keys() & {"window", "hold"}:
            raise RequestError(f'"{min(misplaced)}" requires the key "group".')
        return None
    name, window, hold = content["group"], content.get("window"), content.get("hold", 0)
    if not isinstance(name, str) or not is_group_name(name):
        raise RequestError(
            f'"group" is not a name of 1 to {MAX_GROUP_NAME} characters: letters (A to Z, a to z), '
            'digits, and any of "._:/-".'
        )
    if "window" in content and (type(window) is not int or not 1 <= window <= MAX_WINDOW):
        raise RequestError(f'"window" is not an integer from 1 to {MAX_WINDOW}.')
    if not isinstance(hold, int | float) or isinstance(hold, bool) or not 0 <= hold <= _MAX_FLOAT:
        raise RequestError('"hold" is not a number of seconds that is 0 or greater.')
    return GroupRequest(name, cast("int | None", window), float(hold))
