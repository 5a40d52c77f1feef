# SPDX-License-Identifier: Apache-2.0
"""Turns the bytes that the relay sends into notifications; uses no sockets.

The subscribers with threads and with asyncio share this code, so that both yield the same
notifications. One stream continues over many connections:

- A connection *flows* after the relay has answered the filter request. Records before the answer
  are discarded.
- When a connection ends, its partial record is discarded. If the connection flowed, the next one
  that flows starts with a gap of unknown size.
- A record that cannot be decoded, or that only resembles one of the relay's, is yielded like any
  other. It never ends the stream and never replaces another record.
- After a crash, the next relay ends an incomplete record with a newline, sends a gap record, and
  answers the request once more. Neither the incomplete record nor the answer is yielded. If no
  answer came before and none follows, the request may be lost, and the connection is of no use.
- A member of a group gets no gap from this module if the group has kept its place while the
  connection was interrupted. Each answer says since when the group exists.
- With a window, notifications and the gaps that the relay sends are numbered from each answer on.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator

from notif_relay import records
from notif_relay.errors import (
    BadFilter,
    RelayError,
    RelayUnavailable,
    SubscriptionRefused,
    UnreadableRecord,
)
from notif_relay.group import is_limit
from notif_relay.notification import Gap, Notification, Redelivered, decode
from notif_relay.progress import Progress

OnGap = Callable[[Gap], object]
MakeProgress = Callable[[str | None], Progress]


class Stream:
    """The notifications of one subscriber.

    Args:
        path: path of the public socket, for error messages.
        on_gap: called with each gap at its position in the stream; the gap is then not yielded, and
            is finished when the call returns. None: gaps are yielded.
        make_progress: returns the progress of a member with a window since an answer, which says
            when the group began; None for other subscribers.
    """

    def __init__(
        self,
        path: str,
        on_gap: OnGap | None,
        make_progress: MakeProgress | None = None,
    ) -> None:
        self.flowing = False
        """Whether the relay has applied the filter of the current connection."""
        self.times_flowed = 0
        """Number of connections that have flowed."""
        self.notice = ""
        """The sentence in the relay's last answer about the access of this user; may be empty."""
        self.error = ""
        """Why the relay will close the connection, after it has applied the filter."""
        self.progress: Progress | None = None
        """The notifications since the last answer, for a member with a window."""
        self.note_gap: OnGap | None = None
        """Called before ``on_gap``."""
        self._path = path
        self._on_gap = on_gap
        self._make_progress = make_progress
        self._group_since: str | None = None
        """When the group began, according to the last answer; None without a group."""
        self._redelivered = 0
        """Number of next records that another member got before."""
        self._partial: list[bytes] = []
        """The incomplete last record, in pieces: a long record arrives in many reads."""
        self.gap_reason: records.GapReason = "relay_restarted"
        """Reason of the gap before the notifications of the next connection."""
        self._gap_pending = False
        self._held = b""
        """The last line, if it is a truncated record; a gap of a restart replaces it."""
        self._answer_may_follow = False
        """Whether the last record was a gap of a restart."""

    def receive(self, data: bytes) -> Iterator[Notification]:
        """Return the notifications that ``data`` completes.

        Args:
            data: at least one byte, as read from the socket.

        Returns:
            An iterator, which calls ``on_gap`` when it reaches a gap. If ``on_gap`` raises an
            exception, the iterator can be used again and continues after the gap.

        Raises:
            BadFilter: the relay refused the filter.
            SubscriptionRefused: the relay refused the subscriber.
            RelayUnavailable: the relay was killed before it answered, perhaps after it had read the
                request. The next relay would never answer it.
        """
        continued = bool(self._partial)
        is_unusual = self._answer_may_follow or self._held or self._redelivered
        lines = self._lines(data)
        if self.flowing and not is_unusual and not _may_contain_gap(lines, data, continued):
            if self.progress is None:
                return map(Notification, lines)
            return iter([self.progress.add(Notification(line)) for line in lines])
        if self._on_gap is None:
            return iter(self._notifications(lines))
        return filter(self._is_yielded, self._notifications(lines))

    def end(self, *, is_complete: bool = False) -> None:
        """Note the end of the connection; iterators of ``receive`` remain valid.

        Args:
            is_complete: whether everything was read that the relay has sent.
        """
        self._gap_pending |= self.flowing
        if self.flowing and self._make_progress is None and not is_complete:
            # The relay counts as finished what was not read, so the group's place is beyond it.
            self._group_since = None
        self.flowing = False
        self._partial.clear()
        self._held = b""
        self._answer_may_follow = False
        self._redelivered = 0
        self.error = ""
        if self.progress is not None:
            self.progress.end()

    def _lines(self, data: bytes) -> list[bytes]:
        lines = io.BytesIO(data).readlines()  # the fastest method that splits only at \n
        if self._partial:
            self._partial.append(lines[0])
            if not lines[0].endswith(b"\n"):
                return []
            lines[0] = b"".join(self._partial)
            self._partial.clear()
        if not lines[-1].endswith(b"\n"):
            self._partial.append(lines.pop())
        if self._held and lines:
            lines.insert(0, self._held)
            self._held = b""
        if lines and _may_be_truncated(lines[-1]) and _is_truncated(lines[-1]):
            self._held = lines.pop()
        return lines

    def _notifications(self, lines: Iterable[bytes]) -> list[Notification]:
        found: list[Notification] = []
        previous = b"{}\n"
        is_request_lost = False
        for line in lines:
            event_type = records.own_event_type(line)
            self._answer_may_follow = False
            if event_type == records.ERROR:
                self.error = Notification(line).payload
                if not self.flowing and not is_request_lost:  # it may have been stored in part
                    raise self._refusal(self.error)
            elif event_type == records.SUBSCRIBED:
                self._note_answer(Notification(line), found)
            elif not self.flowing:
                is_request_lost |= event_type == records.GAP and _is_of_crash(line, previous)
                previous = line
            elif event_type == records.REDELIVERED:
                self._redelivered = _number_of_records(Notification(line))
            elif event_type == records.GAP:
                gap = Gap(line)
                if gap.reason == "relay_restarted":
                    self._answer_may_follow = True
                    if found and _is_truncated(found[-1].raw):
                        found.pop()
                found.append(self._counted(gap))
            else:
                found.append(
                    self._counted(Redelivered(line) if self._redelivered else Notification(line))
                )
        if is_request_lost and not self.flowing:
            raise RelayUnavailable(self._path, "the relay was killed before it answered")
        return found

    def _counted(self, notification: Notification) -> Notification:
        """Return a record that was handed out, with a number if the member has a window."""
        self._redelivered = max(0, self._redelivered - 1)
        return notification if self.progress is None else self.progress.add(notification)

    def _note_answer(self, answer: Notification, found: list[Notification]) -> None:
        notice = answer.payload.get(records.NOTICE)
        self.notice = notice if isinstance(notice, str) else ""
        since = answer.payload.get(records.GROUP_SINCE)
        since = since if isinstance(since, str) else None
        is_continued = since is not None and since == self._group_since
        self._group_since = since
        self._redelivered = 0
        if self._make_progress is not None:
            if self.progress is not None:
                self.progress.end()
            self.progress = self._make_progress(since)
        if self.flowing:
            return
        self.flowing = True
        self.times_flowed += 1
        if self._gap_pending and not is_continued:
            found.append(Gap(records.gap(None, self.gap_reason)))
        self._gap_pending = False
        self.gap_reason = "relay_restarted"

    def _is_yielded(self, notification: Notification) -> bool:
        if self._on_gap is None or not isinstance(notification, Gap):
            return True
        if self.note_gap is not None:
            self.note_gap(notification)
        self._on_gap(notification)
        notification.done()
        return False

    def _refusal(self, message: str) -> RelayError:
        if message.startswith(records.NOT_ADMITTED):
            return SubscriptionRefused(self._path, message, is_permanent=True)
        if message.startswith(records.TOO_MANY_SUBSCRIBERS):
            # A relay of version 0.1 uses this sentence for the allow lists as well.
            is_permanent = "_allow_users" in message
            return SubscriptionRefused(self._path, message, is_permanent=is_permanent)
        if is_limit(message):
            return SubscriptionRefused(self._path, message, is_permanent=False)
        return BadFilter(message)


def _may_contain_gap(lines: list[bytes], data: bytes, continued: bool) -> bool:
    """Return whether one of the lines may be a gap record, so that each has to be examined.

    Most lines are longer than a gap record, so that most data is not searched.

    Args:
        lines: the lines.
        data: the bytes that completed the lines.
        continued: whether the first line started before ``data``.
    """
    if not lines or min(map(len, lines)) > records.MAX_GAP_SIZE:
        return False
    return records.may_be_reserved(data) or (continued and records.may_be_reserved(lines[0]))


def _number_of_records(mark: Notification) -> int:
    """Return how many records a record of the relay announces as redelivered."""
    number = mark.payload.get("records")
    return number if isinstance(number, int) else 0


def _is_of_crash(gap: bytes, previous: bytes) -> bool:
    """Return whether the relay sent a gap record because the relay before it was killed.

    The line before it is then a truncated record or blank. Producers send such gaps as well.
    """
    return _is_truncated(previous) and Gap(gap).reason == "relay_restarted"


def _may_be_truncated(line: bytes) -> bool:
    """Return whether a line has to be decoded to find out whether it is a truncated record."""
    return not line.endswith(b"}\n") or line.count(b"{") != line.count(b"}")


def _is_truncated(record: bytes) -> bool:
    """Return whether a relay was killed while it sent the record; the next relay ended the line."""
    try:
        decode(record)
    except UnreadableRecord as error:
        return isinstance(error.__cause__, json.JSONDecodeError | UnicodeDecodeError)
    return False
