# SPDX-License-Identifier: Apache-2.0
"""A pipeline for the tests of targets: sends, sends again after a failure, and checks the order of
the reports."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oslo_config import cfg

from notif_relay import Notification
from notif_relayd_bridge.brokers.schemes import SCHEMES
from notif_relayd_bridge.brokers.target import Target
from support.records import record
from support.waiting import wait_until


def create_target(url: str, directory: Path, **options: object) -> Target:
    """Return the target for a URL.

    Args:
        url: the URL.
        directory: where the configuration file is written.
        options: options of the section that has the name of the scheme.
    """
    name = url.partition(":")[0]
    scheme = SCHEMES[name]
    conf = configured(directory / "bridge.conf", name, scheme.options(), options)
    return scheme.create(url, conf)


def configured(
    path: Path,
    section: str,
    known: Iterable[tuple[str, list[cfg.Opt]]],
    options: Mapping[str, object],
) -> cfg.ConfigOpts:
    """Return the configuration of a client.

    Args:
        path: the file to write.
        section: the section of the options in it.
        known: the sections and options of the client.
        options: the values.
    """
    conf = cfg.ConfigOpts()
    for each, opts in known:
        conf.register_opts(opts, each)
    lines = [f"{name} = {value}" for name, value in options.items()]
    path.write_text("\n".join([f"[{section}]", *lines, ""]))
    conf(["--config-file", str(path)], project="bridge-test")
    return conf


def event(number: int, event_type: str = "test.event", **fields: Any) -> bytes:
    """Return a record with a message id and a publisher."""
    fields.setdefault("message_id", f"id-{number}")
    fields.setdefault("publisher_id", f"test.host{number % 3}")
    return record(event_type, number=number, **fields)


class SimplePipeline:
    """Sends records to a target, as the bridge's pipeline does; keeps what the target reports.

    Args:
        target: is started by ``with`` and closed afterwards.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.answers: list[tuple[bytes, str | None]] = []
        """Each answered record, and why it was refused, if it was."""
        self.failures: list[str] = []
        self.connections = 0
        self.thread = threading.current_thread()
        """The thread that reports, after the first connection."""
        self._is_connected = False
        self._unsent: deque[bytes] = deque()
        self._unconfirmed: deque[bytes] = deque()
        self._lock = threading.RLock()
        self._is_closed = False

    def __enter__(self) -> SimplePipeline:
        self.target.start(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.target.close()
        self._is_closed = True
        self.target.close()

    def send(self, records: Iterable[bytes]) -> None:
        """Send records, now or when there is room."""
        with self._lock:
            self._unsent.extend(records)
            self._send()

    def wait_answers(self, count: int) -> None:
        """Wait until a number of records is answered."""
        wait_until(lambda: len(self.answers) >= count, f"{count} answers; {self.failures[-3:]}")
        assert len(self.answers) == count

    def wait_answered(self) -> None:
        """Wait until all records are answered."""
        wait_until(lambda: not self.unanswered, f"all answers; {self.failures[-3:]}")

    def wait_progress(self) -> None:
        """Wait for the next answer."""
        count = len(self.answers)
        wait_until(lambda: len(self.answers) > count, f"an answer; {self.failures[-3:]}")

    def wait_connected(self) -> None:
        """Wait until the target is connected."""
        wait_until(lambda: self._is_connected, f"a connection; {self.failures[-3:]}")

    def wait_failure(self, text: str) -> None:
        """Wait until the target reports a failure whose reason contains a text."""
        wait_until(
            lambda: any(text in reason for reason in self.failures),
            f"the failure {text!r}; {self.failures[-3:]}",
        )

    def wait_failures(self, count: int) -> None:
        """Wait until a number of failures was reported."""
        wait_until(lambda: len(self.failures) >= count, f"{count} failures")

    @property
    def unanswered(self) -> int:
        """Number of records without an answer."""
        with self._lock:
            return len(self._unsent) + len(self._unconfirmed)

    @property
    def refusals(self) -> dict[bytes, str]:
        """The refused records and the reasons."""
        return {raw: reason for raw, reason in self.answers if reason is not None}

    def _send(self) -> None:
        while (
            self._is_connected
            and self._unsent
            and len(self._unconfirmed) < self.target.max_unconfirmed
        ):
            raw = self._unsent.popleft()
            self._unconfirmed.append(raw)
            self.target.send(Notification(raw))

    def connected(self) -> None:
        with self._lock:
            self._check(not self._is_connected and not self._unconfirmed)
            self._is_connected = True
            self.connections += 1
            self.thread = threading.current_thread()
            self._send()

    def confirmed(self, count: int) -> None:
        with self._lock:
            self._check(self._is_connected and 0 < count <= len(self._unconfirmed))
            self.answers += [(self._unconfirmed.popleft(), None) for _ in range(count)]
            self._send()

    def refused(self, reason: str) -> None:
        with self._lock:
            self._check(self._is_connected and len(self._unconfirmed) > 0)
            self.answers.append((self._unconfirmed.popleft(), reason))
            self._send()

    def failed(self, reason: str) -> None:
        with self._lock:
            self._check(True)
            self._is_connected = False
            self._unsent.extendleft(reversed(self._unconfirmed))
            self._unconfirmed.clear()
            self.failures.append(reason)

    def _check(self, is_expected: bool) -> None:
        # An exception in the target's thread would only end that thread.
        if self._is_closed or not is_expected:
            self.answers.append((b"", "unexpected report"))
