# SPDX-License-Identifier: Apache-2.0
"""The client of a broker as the pipeline of a bridge sees it, in either direction.

A client may fail and connect again before the main thread learns of it. What the pipeline tells the
client in between would be taken for something about the new connection and its messages. Therefore
it has no effect from the moment of a failure until the pipeline knows that the client is connected
again.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Protocol


class Pipeline(Protocol):
    """What is told of the connection, in the main thread."""

    def connect(self) -> None:
        """Note that the client is connected."""

    def fail(self, reason: str) -> None:
        """Note that the connection is lost."""


class Connection:
    """Brings what a client reports to the main thread.

    Args:
        put: adds to the queue of the main thread.
    """

    def __init__(self, put: Callable[[Callable[[], None]], None]) -> None:
        self.pipeline: Pipeline
        self._put = put
        self._lock = threading.Lock()
        """Held while the client is called."""
        self._failures = 0
        self._usable_until = -1
        """Number of failures at which the connection ends of which the pipeline knows."""

    def connected(self) -> None:
        """See `Events` and `SourceEvents`."""
        self._put(functools.partial(self._connect, self._failures))

    def failed(self, reason: str) -> None:
        """See `Events` and `SourceEvents`."""
        with self._lock:
            self._failures += 1
        self._put(functools.partial(self.pipeline.fail, reason))

    @property
    def _is_usable(self) -> bool:
        """Whether the pipeline knows of the current connection; for calls with the lock."""
        return self._usable_until == self._failures

    def _connect(self, failures: int) -> None:
        self._usable_until = failures
        self.pipeline.connect()
