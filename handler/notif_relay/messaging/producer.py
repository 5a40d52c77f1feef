# SPDX-License-Identifier: Apache-2.0
"""One connection to the relay for a whole process, however many notifiers it has.

A service makes several notifiers, and each makes its own drivers. If each of those connected by
itself, one process would be several producers to the relay: with no order among them, a gap record
from each, and a descriptor for each notifier that is made in passing. So all that send to the same
private socket share one ``Producer``. It goes when the last of them does, or when Python ends.

A ``Sender`` is not thread-safe, so the lock is here too, and a new one in each forked process: the
parent's may be held for ever, by a thread that the child does not have.

Whether anybody listens is only looked at in the beginning, and told by a warning, because else
an operator would never learn of a wrong path or a missing group. It may change at any time.
"""

import logging
import os
import stat
import threading
import weakref
from contextlib import AbstractContextManager
from os import getpid
from typing import Any, ClassVar

from notif_relay.sender import Sender

LOG = logging.getLogger(__name__)


class Producer:
    """Sends to the relay from any thread, and from any child of the process that made it.

    Args:
        path: the private socket. That nobody listens there is no error.
    """

    __slots__ = ("__weakref__", "_locks", "_sender")

    _shared: ClassVar[weakref.WeakValueDictionary[str, "Producer"]] = weakref.WeakValueDictionary()

    def __init__(self, path: str) -> None:
        self._sender = Sender(path)
        self._locks: dict[int, AbstractContextManager[Any]] = {}
        weakref.finalize(self, _close, self._sender, self._locks)
        if reason := _unreachable(path):
            LOG.warning("Notifications are dropped until %s can be reached: %s", path, reason)

    @classmethod
    def shared(cls, path: str) -> "Producer":
        """The one that there is for ``path``, or a new one.

        Two threads that make the first one at the same time get one each, which does no harm.
        """
        return cls._shared.get(path) or cls._shared.setdefault(path, cls(path))

    @property
    def dropped(self) -> int:
        """Records of this process that never got out, for whatever reason."""
        return self._sender.dropped

    def send(self, notification: str) -> None:
        """Send a notification's JSON as one record, or drop it, in ten milliseconds at most.

        Raises:
            RecordTooLarge: it is longer than a record may be, and dropped.
        """
        process = getpid()
        with _lock(self._locks, process):
            self._sender.send(notification, process)


def _lock(
    locks: dict[int, AbstractContextManager[Any]], process: int
) -> AbstractContextManager[Any]:
    # Reentrant: a signal handler or finalizer may notify in the middle of a send.
    return locks.get(process) or locks.setdefault(process, threading.RLock())


def _close(sender: Sender, locks: dict[int, AbstractContextManager[Any]]) -> None:
    with _lock(locks, getpid()):
        sender.close()


def _unreachable(path: str) -> str | None:
    """Why one could not connect to ``path`` now; not by trying, which would start the relay."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return "It is no socket"
        if not os.access(path, os.W_OK, effective_ids=True):
            return "Permission denied; the user of the service must be in the socket's group"
    except OSError as error:
        return error.strerror
    return None
