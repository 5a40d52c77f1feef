# SPDX-License-Identifier: Apache-2.0
"""One connection to the relay per process, shared by all notifiers.

A service creates several notifiers, and each creates its own drivers. With a connection for each,
one process would be several producers: the order of its notifications would be lost, each would
send its own gap records, and each temporary notifier would use a descriptor. Therefore all
drivers with the same private socket share one ``Producer``, which is closed with the last of them
or when Python exits.

The constructor checks once whether the socket can be used and logs a warning if not. Otherwise an
operator would not notice a wrong path or a missing group. Of later failures, only a refusal by the
relay is logged, with its reason.
"""

import logging
import os
import stat
import threading
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager
from os import getpid
from typing import Any, ClassVar

from notif_relay.errors import InvalidRecord, RelayError
from notif_relay.escaping import printable, shown
from notif_relay.forks import fork_mark
from notif_relay.messaging.serialization import dump_any, dump_plain
from notif_relay.records import EVENT_TYPE_PREFIX, MAX_RECORD_SIZE
from notif_relay.refusal import RefusalLog
from notif_relay.sender import Sender
from notif_relay.validity import check
from notif_relay.warning_limit import WarningLimit

LOG = logging.getLogger(__name__)


class Producer:
    """A sender for all threads of a process and of its child processes.

    Args:
        path: path of the private socket. A missing relay is not an error.
    """

    __slots__ = ("__weakref__", "_fork_mark", "_locks", "_pid", "_sender", "_warnings")

    _shared: ClassVar[weakref.WeakValueDictionary[str, "Producer"]] = weakref.WeakValueDictionary()

    def __init__(self, path: str) -> None:
        self._sender = Sender(path, on_refusal=RefusalLog(path))
        self._warnings = WarningLimit()
        self._pid = getpid()
        self._fork_mark = fork_mark()
        # By process id: after a fork, another thread of the parent may hold the parent's lock,
        # and the child has no thread that would release it.
        self._locks: dict[int, AbstractContextManager[Any]] = {}
        weakref.finalize(self, _close, self._sender, self._locks)
        if reason := _unreachable(path):
            LOG.warning("Notifications are dropped until %s can be reached: %s", path, reason)

    @classmethod
    def shared(cls, path: str) -> "Producer":
        """Return the existing producer for ``path``, or a new one.

        Two threads that create the first one at the same time may get one each, which is harmless.
        """
        return cls._shared.get(path) or cls._shared.setdefault(path, cls(path))

    @property
    def dropped(self) -> int:
        """Number of records of this process that were dropped, for any reason."""
        return self._sender.dropped

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a notification as one record or drop it; this takes at most 10 ms.

        Args:
            message: the fields of the notification. Secrets are masked.

        Raises:
            RecordTooLarge: the record exceeds the maximum size and was dropped.
            InvalidRecord: the relay would reject the record, or it cannot be written as JSON; it
                was dropped.
        """
        try:
            notification = dump_plain(message)
            is_valid = notification is not None and _has_valid_names(message)
            if notification is None:
                notification = dump_any(message)
        except Exception as error:  # noqa: BLE001 - the conversion of an object may raise any
            # The notifier would log the whole notification, which may have megabytes.
            self._count_invalid()
            raise InvalidRecord(f"it cannot be written as JSON: {shown(error)}") from None
        if not self._fork_mark[0]:
            self._note_process()
        process = self._pid
        with _lock(self._locks, process):
            if not is_valid and len(notification) < MAX_RECORD_SIZE:
                self._check(notification)
            self._sender.send(notification, process)

    def warn(self, log: logging.Logger, message: Mapping[str, Any], error: RelayError) -> None:
        """Log a warning about a notification that ``send`` refused, unless there are too many.

        Args:
            log: the logger.
            message: the fields of the notification.
            error: the error that ``send`` raised.
        """
        if not self._warnings.allows():
            return
        names = map(message.get, ("event_type", "publisher_id"))
        event = " of ".join(printable(each) if type(each) is str else shown(each) for each in names)
        log.warning("%s: %s (%d records dropped so far)", event, error, self.dropped)

    def _count_invalid(self) -> None:
        if not self._fork_mark[0]:
            self._note_process()
        with _lock(self._locks, self._pid):
            self._sender.count_invalid()

    def _note_process(self) -> None:
        process = getpid()
        if process != self._pid:
            self._pid = process
            self._fork_mark = fork_mark()  # after the number, which is valid once the mark is set

    def _check(self, notification: str) -> None:
        try:
            check(notification)
        except InvalidRecord:
            self._sender.count_invalid()
            raise


def _has_valid_names(message: Mapping[str, Any]) -> bool:
    """Return whether the relay accepts the event type and the priority of a plain message.

    Return False for a few that it accepts.
    """
    event_type = message.get("event_type")
    return (
        type(event_type) is str
        and type(message.get("priority")) is str
        and EVENT_TYPE_PREFIX not in event_type
    )


def _lock(
    locks: dict[int, AbstractContextManager[Any]], process: int
) -> AbstractContextManager[Any]:
    # Reentrant: a signal handler or finalizer may send a notification during a send.
    return locks.get(process) or locks.setdefault(process, threading.RLock())


def _close(sender: Sender, locks: dict[int, AbstractContextManager[Any]]) -> None:
    with _lock(locks, getpid()):
        sender.close()


def _unreachable(path: str) -> str | None:
    """Return why the process cannot connect to ``path``, or None if it can.

    This does not connect, which would start the relay.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return "Not a socket"
        if not os.access(path, os.W_OK, effective_ids=True):
            return "Permission denied; the user of the service must be in the socket's group"
    except OSError as error:
        return error.strerror
    return None
