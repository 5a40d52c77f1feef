# SPDX-License-Identifier: Apache-2.0
"""Cost of emitting for a service: the time of one call, with different handlers and drivers.

For a log line, compare `RelayHandler` with a real relay, `FileHandler`, and `SysLogHandler` with a
Unix socket that is read. Waking a sleeping relay takes a large and variable part of a call. To
measure the handler itself, a further case writes bursts to a socket that is read only between
them. For a notification with a payload of 30 keys, compare `driver = unix` with the relay, `driver
= log` with a file, and `messagingv2` with RabbitMQ. The measure is elapsed time, because a service
waits for an answer of RabbitMQ.

Runs as a separate process, because the threads that oslo.messaging starts for RabbitMQ do not end.
Prints the results as JSON.
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
ALONE = "RelayHandler, no reader woken"
LINES, NOTIFICATIONS, CONFIRMED = 5000, 500, 200
"""Calls per round; fewer if they wait for RabbitMQ."""

BURST = 64
"""Calls that fit into a socket buffer."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to emit, and the number of calls per round."""

    call: Callable[[], None]
    calls: int
    bursts: int = 1
    after: Callable[[], object] = lambda: None
    """Called after each burst; not included in the time."""

    def each(self) -> float:
        """Return the time of one call, in microseconds."""
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
    """Return the ways to emit a log line."""
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
        stack.callback(_close, handler)
        logger = logging.getLogger(f"line.{name}")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
        ways[name] = Way(partial(logger.info, text), LINES)
    ways[ALONE].call()
    connection = stack.enter_context(listener.accept()[0])
    discard = partial(_discard, connection)
    discard()
    ways[ALONE] = Way(ways[ALONE].call, BURST, LINES // BURST, discard)
    return ways


def _discard(connection: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while connection.recv(1 << 20, socket.MSG_DONTWAIT):
            pass


def _close(handler: logging.Handler) -> None:
    handler.close()
    if isinstance(handler, RelayHandler) and (dropped := handler.stats().dropped):
        raise RuntimeError(f"{dropped} records were dropped, so the time is invalid")


@contextlib.contextmanager
def _reader(path: str, core: int) -> Iterator[None]:
    """Run a process that reads and discards datagrams, instead of a syslog daemon."""
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
    notifier = oslo_messaging.Notifier(transport, "compute.host-1", driver=driver)
    return lambda: notifier.info({}, "compute.instance.update", PAYLOAD)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--broker", action="store_true", help="include RabbitMQ, if it is installed"
    )
    options = parser.parse_args()
    found: Rounds = {LINE: {}, NOTIFICATION: {}}
    with contextlib.ExitStack() as stack:
        # A directory on a disk, as for the log file of a service; not a tmpfs.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        relay = stack.enter_context(running(RELAY))
        url = stack.enter_context(rabbitmq()) if options.broker and not missing() else None
        # Do not share a processor with the readers: this would affect the time of a call.
        readers_core = core(0)
        os.sched_setaffinity(0, {core(-1)})
        stack.enter_context(_reader(os.fspath(directory / "syslog"), readers_core))
        cases = {
            LINE: _lines(directory, relay.plan.ingest, stack),
            NOTIFICATION: _notifications(directory, relay.plan.public, url, stack),
        }
        for _ in range(options.rounds):
            for case, ways in cases.items():
                for name, way in ways.items():
                    found[case].setdefault(name, []).append({"each": way.each()})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
