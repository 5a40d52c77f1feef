# SPDX-License-Identifier: Apache-2.0
"""A service's side, for a process of its own: plain logging calls through the handler."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import oslo_messaging
from oslo_config import cfg

from notif_relay import RelayHandler
from support.running import DEADLINE, record


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


def notify(ingest: str, log_file: str, number: int) -> None:
    """What a service does: notify through the real log driver, here to a file as well."""
    conf = cfg.ConfigOpts()
    conf([], project="nova")
    transport = oslo_messaging.get_notification_transport(conf, url="fake://")
    notifier = oslo_messaging.Notifier(transport, "compute.host-1", driver="log", topics=["t"])
    logger = logging.getLogger("oslo.messaging.notification")
    handler = RelayHandler(ingest, max_wait=DEADLINE)
    for destination in (handler, logging.FileHandler(log_file)):
        logger.addHandler(destination)
    logger.setLevel(logging.INFO)
    for each in range(number):
        payload = {"instance_id": each, "host": "hôst", "admin_password": "secret", "n": [each] * 3}
        notifier.info({}, "compute.instance.update", payload)
    logging.shutdown()
    assert handler.stats().dropped == 0
    assert handler.stats().sent == number


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Do so in a new process, which shares nothing with this one."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process
