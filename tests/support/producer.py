# SPDX-License-Identifier: Apache-2.0
"""Producers that run in a process of their own and log through the handler, as a service does."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import oslo_messaging
from oslo_config import cfg

from notif_relay import RelayHandler
from support.records import numbered_record
from support.waiting import TIMEOUT


def emit(ingest: str, first: int, count: int, size: int) -> None:
    """Log `count` numbered records as fast as possible, and check that none is dropped."""
    logger = logging.getLogger("oslo.messaging.notification")
    handler = RelayHandler(ingest, max_wait=TIMEOUT)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    for number in range(first, first + count):
        logger.info(numbered_record(number, size)[:-1].decode())
    handler.close()
    assert handler.stats().dropped == 0


def notify(ingest: str, log_file: str, count: int) -> None:
    """Emit `count` notifications through the log driver, to the relay and to a file."""
    conf = cfg.ConfigOpts()
    conf([], project="nova")
    transport = oslo_messaging.get_notification_transport(conf, url="fake://")
    notifier = oslo_messaging.Notifier(transport, "compute.host-1", driver="log", topics=["t"])
    logger = logging.getLogger("oslo.messaging.notification")
    handler = RelayHandler(ingest, max_wait=TIMEOUT)
    for destination in (handler, logging.FileHandler(log_file)):
        logger.addHandler(destination)
    logger.setLevel(logging.INFO)
    for number in range(count):
        payload = {
            "instance_id": number,
            "host": "hôst",
            "admin_password": "secret",
            "n": [number] * 3,
        }
        notifier.info({}, "compute.instance.update", payload)
    logging.shutdown()
    assert handler.stats().dropped == 0
    assert handler.stats().sent == count


def start_process(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Call `target` in a new process, which inherits no state of this one."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process
