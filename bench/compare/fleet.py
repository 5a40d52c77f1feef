# SPDX-License-Identifier: Apache-2.0
"""The programs of bench/fleet.py: hosts, a broker, a hub, and the subscribers of the hub."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare import rabbitmq
from compare.arrivals import Arrivals, Wants
from compare.processes import Usage, usage
from support.bridge import Bridge, RealBridge
from support.bridge_inbound import RealInboundBridge
from support.relay import RunningRelay, connect, running_relay

SIZE = 1024
"""Bytes of a record."""

EVENT_TYPES = 20

STARTED_TOGETHER = 4
"""Hosts that start at the same time: a bridge takes a second of processor time for its imports."""

START_TIMEOUT = 120.0
"""Seconds for a bridge to connect."""

ARRIVAL_TIMEOUT = 300.0
"""Seconds for all records to arrive, which may wait for the broker first."""

BURST = 20_000
"""Records that all hosts together send as fast as they can. They wait at the broker for the hub."""

HUB_RING = 64 << 20
"""Bytes."""

BROKER_OPTIONS = "\n[oslo_messaging_rabbit]\namqp_durable_queues = true\n"
"""The queues survive the end of the broker."""

DEFAULT_QUEUES = ("^notifications[.]", '{"max-length": 1000}')
"""Services and bridges declare a queue for each priority, which has no consumer here."""

SUBSCRIBERS: list[tuple[dict[str, list[str]], Wants]] = [
    ({}, lambda _host, _number: True),
    (
        {"event_type": ["fleet.event1", "fleet.event1?"]},
        lambda _, number: _type(number) in (1, *range(10, 20)),
    ),
    ({"publisher_id": ["compute.cmp-*0.example.org"]}, lambda host, _: host % 10 == 0),
]
"""Filters of the subscribers of the hub."""


def _type(number: int) -> int:
    return number % EVENT_TYPES


def record(host: int, number: int) -> bytes:
    """Return a record of `SIZE` bytes."""
    text = json.dumps(
        {
            "message_id": f"{host:08}-0000-4000-8000-{number:012}",
            "publisher_id": f"compute.cmp-{host:05}.example.org",
            "event_type": f"fleet.event{_type(number)}",
            "priority": "INFO",
            "payload": {"host": host, "number": number, "text": "@"},
            "timestamp": "2026-01-31 12:00:00.123456",
        }
    )
    return text.replace("@", "x" * (SIZE - len(text))).encode() + b"\n"


class Host:
    """A relay and its bridge.

    Args:
        directory: for their files.
        url: of the broker.
    """

    def __init__(self, directory: Path, url: str) -> None:
        directory.mkdir()
        self.relay = RunningRelay(directory)
        self.relay.wait_ready()
        self.status = directory / "status.sock"
        self.bridge: Bridge = RealBridge(directory, self.relay, url, status_socket=self.status)
        _append(self.bridge.config, BROKER_OPTIONS)
        self.bridge.start()
        self.producer = connect(self.relay.ingest)
        self.sent = 0

    def send(self) -> None:
        """Send the next record."""
        self.producer.sendall(record(int(self.relay.directory.name), self.sent))
        self.sent += 1

    def close(self) -> None:
        """End both."""
        self.producer.close()
        self.bridge.kill()
        self.relay.close()


class Subscribers:
    """The subscribers of the hub, which read in a thread."""

    def __init__(self, hub: RunningRelay, hosts: int) -> None:
        self.arrivals = [Arrivals(hosts, wants) for _, wants in SUBSCRIBERS]
        self._sockets = [connect(hub.public) for _ in SUBSCRIBERS]
        self._threads = []
        for sock, (wanted, _), arrivals in zip(
            self._sockets, SUBSCRIBERS, self.arrivals, strict=True
        ):
            sock.sendall(json.dumps({"filter": wanted}).encode() + b"\n")
            arrivals.read(sock.recv(1 << 16))
            sock.settimeout(None)
            self._threads.append(threading.Thread(target=_read_all, args=(sock, arrivals)))
            self._threads[-1].start()

    def have(self, sent: Sequence[int]) -> bool:
        """Return whether all records have arrived or are announced as lost."""
        return all(each.unexplained(sent) == 0 for each in self.arrivals)

    def close(self) -> None:
        """Disconnect."""
        for sock in self._sockets:
            sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()


def _read_all(sock: socket.socket, arrivals: Arrivals) -> None:
    while data := sock.recv(1 << 18):
        arrivals.read(data)


def _append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the programs have taken for some time. Values of a host are the medians of all hosts."""

    seconds: float
    rate: float
    """Records per second that the hosts have sent."""
    shares: dict[str, float]
    """Processor time as a share of one processor."""
    memory: dict[str, float]
    """Resident memory in MiB."""


class Fleet:
    """All programs.

    Args:
        stack: ends them.
        directory: for their files.
        hosts: number of hosts.
        rate: records per second of each host.
    """

    def __init__(
        self, stack: contextlib.ExitStack, directory: Path, hosts: int, rate: float
    ) -> None:
        self.rate = rate
        self.broker = stack.enter_context(rabbitmq.Broker(_made(directory / "broker")))
        url = self.broker.url()
        pattern, definition = DEFAULT_QUEUES
        self.broker.control("set_policy", "defaults", pattern, definition, "--apply-to", "queues")
        at_hub = _made(directory / "hub")
        self.source_status = at_hub / "status.sock"
        self.hub = stack.enter_context(running_relay(at_hub, "--relayd-ring_size", str(HUB_RING)))
        self.source = RealInboundBridge(
            at_hub, self.hub.ingest, url, status_socket=self.source_status
        )
        _append(self.source.config, BROKER_OPTIONS)
        self.source.start()
        stack.callback(self.source.kill)
        _wait_connected(self.source_status)
        self.hosts: list[Host] = []
        for first in range(0, hosts, STARTED_TOGETHER):
            together = range(first, min(hosts, first + STARTED_TOGETHER))
            started = [Host(directory / str(number), url) for number in together]
            for each in started:
                stack.callback(each.close)
                _wait_connected(each.status)
            self.hosts += started
        self.subscribers = Subscribers(self.hub, hosts)
        stack.callback(self.subscribers.close)

    @property
    def sent(self) -> list[int]:
        """Number of records of each host."""
        return [each.sent for each in self.hosts]

    def send(self, seconds: float) -> None:
        """Let all hosts send, evenly."""
        due = time.monotonic()
        for _ in range(round(seconds * self.rate)):
            for each in self.hosts:
                due += 1 / self.rate / len(self.hosts)
                time.sleep(max(0.0, due - time.monotonic()))
                each.send()

    def wait_arrived(self) -> None:
        """Wait until all records have arrived or are announced; the books show what has not."""
        _wait(lambda: self.subscribers.have(self.sent), ARRIVAL_TIMEOUT)

    def measure(self, run: Callable[[], None]) -> Sample:
        """Return what the programs take while `run` runs."""
        sent, before, started = sum(self.sent), self._usage(), time.monotonic()
        run()
        seconds = time.monotonic() - started
        shares, memory = {}, {}
        for name, ends in self._usage().items():
            shares[name] = statistics.median(
                (end.seconds - begin.seconds) / seconds
                for begin, end in zip(before[name], ends, strict=True)
            )
            memory[name] = statistics.median(each.memory for each in ends) / (1 << 20)
        return Sample(seconds, (sum(self.sent) - sent) / seconds, shares, memory)

    def _usage(self) -> dict[str, list[Usage]]:
        return {
            "relay": [usage([each.relay.process.pid]) for each in self.hosts],
            "bridge": [usage([each.bridge.process.pid]) for each in self.hosts],
            "broker": [usage(self.broker.processes())],
            "source": [usage([self.source.process.pid])],
            "hub": [usage([self.hub.process.pid])],
        }

    def outage(self, seconds: float) -> dict[str, float]:
        """Kill the broker, send, start it again, and wait for all records.

        RabbitMQ stores acknowledgements up to a second later. If it is killed before that, it
        delivers the messages again.
        """
        self.broker.kill()
        sample = self.measure(lambda: self.send(seconds))
        spools = [_report(each.status)["spool"] for each in self.hosts]
        spooled = sum(each["records"] for each in spools)
        started = time.monotonic()
        self.broker.start()
        self.wait_arrived()
        return {
            "spooled": spooled,
            "spool_bytes": sum(each["bytes"] for each in spools) / max(1, spooled),
            "drain_seconds": time.monotonic() - started,
            "outage_memory": sample.memory["bridge"],
        }

    def burst(self) -> dict[str, float]:
        """Let all hosts send as fast as they can, and then the hub read as fast as it can."""
        os.kill(self.source.process.pid, signal.SIGSTOP)
        each, before = BURST // len(self.hosts), sum(self.sent)
        published = self.measure(lambda: self._publish(each))
        count = sum(self.sent) - before
        os.kill(self.source.process.pid, signal.SIGCONT)
        read = self.measure(self.wait_arrived)
        return {
            "publish_rate": count / published.seconds,
            "publish_each": _microseconds(published, "broker", count),
            "bridge_each": _microseconds(published, "bridge", each),
            "relay_each": _microseconds(published, "relay", each),
            "read_rate": count / read.seconds,
            "read_each": _microseconds(read, "broker", count),
            "source_each": _microseconds(read, "source", count),
            "hub_each": _microseconds(read, "hub", count),
        }

    def _publish(self, each: int) -> None:
        for _ in range(each):
            for host in self.hosts:
                host.send()
        _wait(lambda: not any(map(self._is_sending, self.hosts)), ARRIVAL_TIMEOUT)

    def _is_sending(self, host: Host) -> bool:
        report = _report(host.status)
        return bool(report["waiting"] or report["unconfirmed"])


def _microseconds(sample: Sample, name: str, count: int) -> float:
    """Return the processor time for each of some records."""
    return sample.shares[name] * sample.seconds / count * 1e6


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _report(path: Path) -> dict[str, Any]:
    """Return the answer of a bridge's status socket."""
    with connect(path) as sock, sock.makefile() as stream:
        answer: dict[str, Any] = json.loads(stream.read())
    return answer


def _wait_connected(path: Path) -> None:
    if not _wait(lambda: path.exists() and bool(_report(path)["connected"]), START_TIMEOUT):
        raise RuntimeError(f"{path}: the bridge has not connected")


def _wait(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def fleet(hosts: int, rate: float) -> Iterator[Fleet]:
    """Run all programs."""
    with contextlib.ExitStack() as stack:
        # At its end, each program copies its log to standard error.
        silent = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stderr(silent))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-"))
        yield Fleet(stack, Path(directory), hosts, rate)
