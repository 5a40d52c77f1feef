# SPDX-License-Identifier: Apache-2.0
"""What emitting costs a service: the time that one call takes, each way beside the others.

First a line in a log: `RelayHandler` to a real relay, `FileHandler`, and `SysLogHandler` to a Unix
socket that somebody reads. A relay that sleeps has to be woken, which takes a good part of a call
and differs from one moment to the next, so what the handler itself costs is measured as well: in
bursts, to a socket that is read only between them. Then a whole notification with a payload of 30
keys: `driver = unix` to the relay, `driver = log` to a file, and `messagingv2` to RabbitMQ. It is
the time on the wall, as a service waits for an answer from RabbitMQ.

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
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import oslo_messaging
from notify import PAYLOAD
from oslo_config import cfg

from compare.figures import Rounds
from compare.load import core
from compare.notification import record
from compare.peers import RELAY, running
from compare.rabbitmq import missing, rabbitmq
from notif_relay import RelayHandler
from notif_relay.messaging.options import GROUP, list_opts

LINE, NOTIFICATION = "a line", "a notification"
ALONE = "RelayHandler, nobody woken"
LINES, NOTIFICATIONS, CONFIRMED = 5000, 500, 200
"""Calls in a round; of those that wait for RabbitMQ fewer."""

BURST = 64
"""Calls that a socket takes without anybody reading."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to emit, and how often it is called in a round."""

    call: Callable[[], None]
    calls: int
    bursts: int = 1
    after: Callable[[], object] = lambda: None
    """Called after each burst, outside of the time that is taken."""

    def each(self) -> float:
        """Microseconds that one call takes."""
        taken = 0.0
        for _ in range(self.bursts):
            started = time.perf_counter()
            for _ in range(self.calls):
                self.call()
            taken += time.perf_counter() - started
            self.after()
        return taken / (self.calls * self.bursts) * 1e6


Ways = dict[str, Way]


def _lines(directory: Path, ingest: str, stack: contextlib.ExitStack) -> Ways:
    """What is in a log for each way."""
    text = record(1024).decode().rstrip("\n")
    own = os.fspath(directory / "own")
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(own)
    listener.listen()
    handlers: dict[str, logging.Handler] = {
        "RelayHandler": RelayHandler(ingest),
        ALONE: RelayHandler(own),
        "FileHandler": logging.FileHandler(directory / "lines.log"),
        "SysLogHandler": logging.handlers.SysLogHandler(os.fspath(directory / "syslog")),
    }
    ways: Ways = {}
    for name, handler in handlers.items():
        stack.callback(_end, handler)
        logger = logging.getLogger(f"line.{name}")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
        ways[name] = Way(partial(logger.info, text), LINES)
    ways[ALONE].call()
    connection = stack.enter_context(listener.accept()[0])
    drain = partial(_drain, connection)
    drain()
    ways[ALONE] = Way(ways[ALONE].call, BURST, LINES // BURST, drain)
    return ways


def _drain(connection: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while connection.recv(1 << 20, socket.MSG_DONTWAIT):
            pass


def _end(handler: logging.Handler) -> None:
    handler.close()
    if isinstance(handler, RelayHandler) and (dropped := handler.stats().dropped):
        raise RuntimeError(f"{dropped} records were dropped, which makes a call look cheap")


@contextlib.contextmanager
def _reader(path: str, core: int) -> Iterator[None]:
    """Somebody who reads datagrams and does nothing with them, in place of a syslog daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        process = multiprocessing.get_context("fork").Process(target=_read, args=(sock, core))
        process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _read(sock: socket.socket, core: int) -> None:
    os.sched_setaffinity(0, {core})
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
        "driver = unix": Way(_notify("unix", "fake://", public, stack), NOTIFICATIONS),
        "driver = log": Way(_notify("log", "fake://", public, stack), NOTIFICATIONS),
    }
    if url:
        ways["messagingv2, RabbitMQ"] = Way(_notify("messagingv2", url, public, stack), CONFIRMED)
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
        # Never where the readers are: whether they share a processor is most of a call's time.
        readers_core = core(0)
        os.sched_setaffinity(0, {core(-1)})
        stack.enter_context(_reader(os.fspath(directory / "syslog"), readers_core))
        cases = {
            LINE: _lines(directory, relay.plan.ingest, stack),
            NOTIFICATION: _notifications(directory, relay.plan.public, url, stack),
        }
        for _ in range(asked.rounds):
            for case, ways in cases.items():
                for name, way in ways.items():
                    found[case].setdefault(name, []).append({"each": way.each()})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
