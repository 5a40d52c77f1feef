# SPDX-License-Identifier: Apache-2.0
"""What emitting costs a service: the time that one call takes, each way beside the others.

First a line in a log: `RelayHandler` to a real relay, `FileHandler`, and `SysLogHandler` to a Unix
socket that somebody reads. Then a whole notification with a payload of 30 keys: `driver = unix` to
the relay, `driver = log` to a file, and `messagingv2` to RabbitMQ. It is the time on the wall, as a
service waits for an answer from RabbitMQ.

A process of its own, since what oslo.messaging starts in one for RabbitMQ is there to stay. It
prints what it has found as JSON.
"""

import argparse
import contextlib
import json
import logging
import logging.handlers
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import oslo_messaging
from notify import PAYLOAD
from oslo_config import cfg

from compare.figures import Rounds
from compare.notification import record
from compare.peers import RELAY, running
from compare.rabbitmq import missing, rabbitmq
from notif_relay import RelayHandler
from notif_relay.messaging.options import GROUP, list_opts

LINE, NOTIFICATION = "a line", "a notification"
LINES, NOTIFICATIONS, CONFIRMED = 5000, 500, 200
"""Calls in a round; of those that wait for RabbitMQ fewer."""

Ways = dict[str, tuple[Callable[[], None], int]]
"""A call for each way, and how often it is called in a round."""


def measure(rounds: int, broker: bool, tell: Callable[[str], None]) -> Rounds:
    """Have it measured in another process."""
    tell("emitting")
    command = [sys.executable, "-m", "compare.emitting", "--rounds", str(rounds)]
    done = subprocess.run(
        [*command, *(["--broker"] if broker else [])],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        check=True,
    )
    found: Rounds = json.loads(done.stdout)
    return found


def _timed(call: Callable[[], None], calls: int) -> float:
    """Microseconds that one call takes."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls * 1e6


def _lines(directory: Path, ingest: str, stack: contextlib.ExitStack) -> Ways:
    text = record(1024).decode().rstrip("\n")
    syslog = os.fspath(directory / "syslog")
    stack.enter_context(_reader(syslog))
    handlers: dict[str, logging.Handler] = {
        "RelayHandler": RelayHandler(ingest),
        "FileHandler": logging.FileHandler(directory / "lines.log"),
        "SysLogHandler": logging.handlers.SysLogHandler(syslog),
    }
    ways: Ways = {}
    for name, handler in handlers.items():
        logger = logging.getLogger(f"line.{name}")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
        stack.callback(handler.close)
        ways[name] = (lambda logger=logger: logger.info(text), LINES)  # type: ignore[misc]
    return ways


@contextlib.contextmanager
def _reader(path: str) -> Iterator[None]:
    """Somebody who reads datagrams and does nothing with them, in place of a syslog daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        process = multiprocessing.get_context("fork").Process(target=_read, args=(sock,))
        process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _read(sock: socket.socket) -> None:
    while True:
        sock.recv(1 << 16)


def _notifications(
    directory: Path, public: str, url: str | None, stack: contextlib.ExitStack
) -> Ways:
    logger = logging.getLogger("oslo.messaging.notification")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    file = logging.FileHandler(directory / "notifications.log")
    stack.callback(file.close)
    logger.addHandler(file)
    ways: Ways = {
        "driver = unix": (_notify("unix", "fake://", public, stack), NOTIFICATIONS),
        "driver = log": (_notify("log", "fake://", public, stack), NOTIFICATIONS),
    }
    if url:
        ways["messagingv2, RabbitMQ"] = (_notify("messagingv2", url, public, stack), CONFIRMED)
    return ways


def _notify(driver: str, url: str, public: str, stack: contextlib.ExitStack) -> Callable[[], None]:
    conf = cfg.ConfigOpts()
    conf([], project="bench", default_config_files=[])
    transport = oslo_messaging.get_notification_transport(conf, url=url)
    stack.callback(transport.cleanup)
    conf.register_opts(list_opts()[0][1], group=GROUP)
    conf.set_override("sock_path", public, group=GROUP)
    notifier = oslo_messaging.Notifier(transport, "compute.host-1", driver=driver, topics=["n"])
    return lambda: notifier.info({}, "compute.instance.update", PAYLOAD)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--broker", action="store_true", help="RabbitMQ as well, where it is")
    asked = parser.parse_args()
    found: Rounds = {LINE: {}, NOTIFICATION: {}}
    with contextlib.ExitStack() as stack:
        # A file as a service has it: no tmpfs.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        relay = stack.enter_context(running(RELAY))
        url = stack.enter_context(rabbitmq()) if asked.broker and not missing() else None
        cases = {
            LINE: _lines(directory, relay.plan.ingest, stack),
            NOTIFICATION: _notifications(directory, relay.plan.public, url, stack),
        }
        for _ in range(asked.rounds):
            for case, ways in cases.items():
                for name, (call, calls) in ways.items():
                    found[case].setdefault(name, []).append({"each": _timed(call, calls)})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
