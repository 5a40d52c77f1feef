# SPDX-License-Identifier: Apache-2.0
"""A thread with a connection to RabbitMQ, which it makes again after each failure."""

from __future__ import annotations

import abc
import contextlib
import logging
import threading
import time
from typing import Generic, Protocol, TypeVar

from notif_relayd_bridge.brokers.backoff import MAX_BACKOFF, Backoff
from notif_relayd_bridge.brokers.rabbit.connection import BrokerConnection, ClosingError, Waker
from notif_relayd_bridge.brokers.rabbit.driver import FAILURES, Driver

LOG = logging.getLogger(__name__)

_CLOSE_TIMEOUT = 30.0
"""Maximum time in seconds that `close` waits for the thread. The thread can only be late while it
looks up the address of a host or connects."""


class _Events(Protocol):
    def failed(self, reason: str) -> None: ...


E = TypeVar("E", bound=_Events)
"""What a target or a source reports."""


class Client(abc.ABC, Generic[E]):
    """The common part of the target and the source.

    Args:
        driver: oslo.messaging's driver.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._waker = Waker()
        self._backoff = Backoff()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @abc.abstractmethod
    def _use(self, connection: BrokerConnection, events: E) -> None:
        """Use a connection until it fails.

        Raises:
            One of `FAILURES`: the connection cannot be used any longer.
            ClosingError: the client is being closed.
        """

    def start(self, events: E) -> None:
        """Connect in the background."""
        self._thread = threading.Thread(
            target=self._run, args=(events,), name="rabbit", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Disconnect and end the thread."""
        if self._is_closed:
            return
        self._is_closed = True
        self._waker.wake_to_close()
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT)
            if self._thread.is_alive():
                return  # It still uses the descriptor.
        self._waker.close()

    def _run(self, events: E) -> None:
        while not self._waker.is_closing:
            reason = self._connect(events)
            if reason is None or self._waker.is_closing:
                return
            events.failed(reason)
            self._driver.next_host()
            # The limit is that of the pause between two attempts with the same host.
            self._waker.pause(self._backoff.pause() / self._driver.hosts)

    def _connect(self, events: E) -> str | None:
        """Use a connection until that fails; return why, or None if the client is being closed."""
        started = time.monotonic()
        try:
            self._use_connection(events)
        except ClosingError:
            return None
        except FAILURES as error:
            if time.monotonic() - started > MAX_BACKOFF:
                self._backoff.reset()
            return self._driver.describe(error)
        except Exception:
            LOG.exception("unhandled exception in the client of RabbitMQ, connecting again")
            return "unhandled exception, see the log"
        return None

    def _use_connection(self, events: E) -> None:
        connection = self._driver.connect(self._waker)
        try:
            self._use(connection, events)
        except ClosingError:
            with contextlib.suppress(*FAILURES):
                connection.finish()
            raise
        finally:
            connection.collect()
