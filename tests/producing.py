# SPDX-License-Identifier: Apache-2.0
"""A service's side, for a process of its own: plain logging calls through the handler."""

from __future__ import annotations

import logging
import multiprocessing

from notif_relay import RelayHandler
from running import DEADLINE, record


def numbered(number: int, size: int = 1024) -> bytes:
    """A record with a number in it, of exactly `size` bytes."""
    empty = record(number=number, payload="")
    return record(number=number, payload="x" * (size - len(empty)))


def emit(ingest: str, first: int, number: int, size: int) -> None:
    """Log so many numbered records as fast as it goes, and see that none was dropped."""
    logger = logging.getLogger("oslo.messaging.notification")
    handler = RelayHandler(ingest, max_wait=DEADLINE)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    for each in range(first, first + number):
        logger.info(numbered(each, size)[:-1].decode())
    handler.close()
    assert handler.stats().dropped == 0


def start_emitting(
    ingest: str, first: int, number: int, size: int
) -> multiprocessing.process.BaseProcess:
    """Do so in a new process, which shares nothing with this one."""
    process = multiprocessing.get_context("spawn").Process(
        target=emit, args=(ingest, first, number, size)
    )
    process.start()
    return process
