# SPDX-License-Identifier: Apache-2.0
"""The page about log pipelines: its service, and its configurations of rsyslog and syslog-ng."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import doc_blocks
from support.records import record
from support.relay import Relay, RunningRelay, next_relay
from support.relayctl import RELAYCTL
from support.syslog import LogDaemon, Rsyslog, SyslogNg, needs
from support.waiting import TIMEOUT, kill, wait_until

PAGE = "howto/log-pipelines.rst"

MAX_RECORD_SIZE = 1024 * 1024


def numbered(number: int, size: int = 0) -> bytes:
    """Return a record of at least `size` bytes as services write it, and with unescaped text."""
    short = record(number=number, payload={"name": "høst ☃ 𝄞 \x00\n\\ \"'%msg%${MESSAGE}", "x": ""})
    short = short.replace(rb"h\u00f8st", "høst ☃".encode())
    return short.replace(b'"x": ""', b'"x": "%s"' % (b"x" * (size - len(short))))


FIRST = [
    numbered(0),
    *(numbered(number, size) for number, size in enumerate((8190, 8195, 65_540, 300_000), 1)),
    numbered(5, MAX_RECORD_SIZE),
    b'{"event_type":"spaces",\t"priority" : "INFO", "number":6 } \n',
]
"""Records that are longer than default limits of the log daemons, and the longest that is valid."""


@pytest.fixture
def output(directory: Path) -> Path:
    return directory / "out"


@pytest.fixture
def files(directory: Path) -> Path:
    """Return the directory that the service writes to."""
    path = directory / "files"
    path.mkdir()
    return path


def block(caption: str) -> str:
    """Return the block with a caption that ends in `caption`."""
    [found] = [each for each in doc_blocks.rst(PAGE) if each.where.endswith(caption)]
    return found.text


def adapted(text: str, directory: Path) -> str:
    """Return a part of the page with the programs and files of the test."""
    text = text.replace("exec relayctl", f"exec {RELAYCTL} --runtime-dir {directory}")
    text = text.replace("/var/log/notif-pipeline", f"{directory}/files")
    return text.replace("/var/log/notifications.out", f"{directory}/out")


class Service:
    """The service that writes a file, without systemd."""

    def __init__(self, directory: Path, files: Path) -> None:
        unit = block("notif-pipeline.service")
        commands = re.findall(r"^Exec(?:StartPre|Start)=/bin/sh -c '(.*)'$", unit, re.MULTILINE)
        *self._prepare, self._run = [
            adapted(each.replace("$$", "$"), directory) for each in commands
        ]
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        for each in self._prepare:
            subprocess.run(["sh", "-c", each], cwd=self._files, check=True, timeout=TIMEOUT)
        self._process = subprocess.Popen(["sh", "-c", self._run], cwd=self._files)

    def kill(self) -> None:
        assert self._process is not None
        kill(self._process)


def send(relay: Relay, *lines: bytes) -> None:
    with relay.produce() as producer:
        producer.sendall(b"".join(lines))


def wait_members(relay: Relay, count: int) -> None:
    wait_until(
        lambda: [each["members"] for each in relay.request("groups")] == [count],
        f"the group has {count} members",
    )


def wait_finished(relay: Relay) -> None:
    """Wait until relayctl has reported all records as finished; it would get the others again."""
    wait_until(
        lambda: [each["unfinished"] for each in relay.request("groups")] == [0],
        "all records are finished",
    )


def received(output: Path) -> list[bytes]:
    """Return the notifications in a file, without the relay's own records."""
    lines = output.read_bytes().splitlines(keepends=True) if output.exists() else []
    return [each for each in lines if b'"notif_relayd.' not in each]


def wait_received(output: Path, *expected: bytes) -> None:
    """Wait until a file has the number of records, and check that they are the expected ones."""
    wait_until(lambda: len(received(output)) >= len(expected), f"{len(expected)} records")
    found = received(output)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        assert ours == theirs


@contextlib.contextmanager
def relay_restarted(relay: RunningRelay) -> Iterator[RunningRelay]:
    """Run the next relay, which has a member."""
    relay.stop()
    with next_relay(relay.directory) as relay_2:
        wait_members(relay_2, 1)
        yield relay_2


def check_daemon(daemon: LogDaemon, relay: RunningRelay, output: Path) -> list[bytes]:
    """Check that all records arrive over restarts of the daemon and the relay; return them."""
    daemon.start()
    wait_members(relay, 1)
    send(relay, *FIRST)
    wait_received(output, *FIRST)
    wait_finished(relay)
    daemon.stop()
    waiting = [numbered(number) for number in range(10, 110)]
    send(relay, *waiting)
    daemon.start()
    wait_received(output, *FIRST, *waiting)
    with relay_restarted(relay) as relay_2:
        later = [numbered(number) for number in range(110, 120)]
        send(relay_2, *later)
        wait_received(output, *FIRST, *waiting, *later)
    return [*FIRST, *waiting, *later]


@needs("rsyslogd")
def test_rsyslog_reads_the_file_of_the_service(
    directory: Path, relay: RunningRelay, output: Path, files: Path
) -> None:
    with Rsyslog(directory) as daemon, Service(directory, files):
        daemon.configure(
            f'global(workDirectory="{directory}")\n'
            + adapted(block("/etc/rsyslog.d/notifications.conf"), directory)
        )
        check_daemon(daemon, relay, output)


@needs("syslog-ng")
def test_syslog_ng_reads_from_relayctl(directory: Path, relay: RunningRelay, output: Path) -> None:
    with SyslogNg(directory) as daemon:
        daemon.configure(adapted(block("/etc/syslog-ng/conf.d/notifications.conf"), directory))
        check_daemon(daemon, relay, output)


@needs("syslog-ng")
def test_syslog_ng_reads_the_file_of_the_service(
    directory: Path, relay: RunningRelay, output: Path, files: Path
) -> None:
    text = block("/etc/syslog-ng/conf.d/notifications.conf")
    source = block("in place of s_notifications")
    _, separator, remainder = text.partition("destination ")
    with SyslogNg(directory) as daemon, Service(directory, files):
        daemon.configure(adapted(source + separator + remainder, directory))
        check_daemon(daemon, relay, output)


def logrotate(service: Service, files: Path) -> None:
    """Do what the configuration of logrotate does, without its wait for the end of relayctl."""
    service.kill()
    os.rename(files / "notifications.json", files / "notifications.json.1")


@needs("rsyslogd")
def test_rotation_of_the_file_loses_nothing(
    directory: Path, relay: RunningRelay, output: Path, files: Path
) -> None:
    with Rsyslog(directory) as daemon, Service(directory, files) as service:
        daemon.configure(
            f'global(workDirectory="{directory}")\n'
            + adapted(block("/etc/rsyslog.d/notifications.conf"), directory)
        )
        daemon.start()
        wait_members(relay, 1)
        before = [numbered(number) for number in range(10)]
        send(relay, *before)
        wait_received(files / "notifications.json", *before)
        wait_finished(relay)
        logrotate(service, files)
        wait_members(relay, 0)
        after = [numbered(number) for number in range(10, 20)]
        send(relay, *after)
        service.start()
        wait_received(output, *before, *after)


def test_service_ends_a_partial_line(directory: Path, relay: RunningRelay, files: Path) -> None:
    path = files / "notifications.json"
    path.write_bytes(b'{"event_type": "par')
    with Service(directory, files) as service:
        wait_members(relay, 1)
        send(relay, numbered(0))
        wait_received(path, b'{"event_type": "par\n', numbered(0))
        wait_finished(relay)
        service.kill()
        service.start()
        wait_members(relay, 1)
        send(relay, numbered(1))
        wait_received(path, b'{"event_type": "par\n', numbered(0), numbered(1))
