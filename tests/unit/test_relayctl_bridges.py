# SPDX-License-Identifier: Apache-2.0
"""relayctl bridges: what it shows, and answers that no bridge gives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from notif_relayctl.access import BRIDGE_DIRECTORY
from notif_relayctl.app import main
from notif_relayctl.bridges import client
from notif_relayctl.bridges.client import Problem, query_all
from notif_relayctl.bridges.schema import BridgeStatus, SpoolStatus
from notif_relayctl.errors import CtlError, NotRunningError
from notif_relayctl.prometheus.bridges import BridgeCollector
from notif_relayd_bridge import status
from notif_relayd_bridge.inbound.pipeline import Pipeline as InboundPipeline
from notif_relayd_bridge.outbound.pipeline import Pipeline
from notif_relayd_bridge.spool.spool import Spool
from notif_relayd_bridge.status import answering
from support.bridge_status import REPORT, SPOOL, serve
from support.prometheus import Samples, samples
from support.relayctl import bind_listener
from support.waiting import TIMEOUT

WRONG: list[dict[str, object]] = [
    {"connected": 1},
    {"confirmed": -1},
    {"confirmed": 2**63},
    {"confirmed": 1.5},
    {"broker": "\x1b[31m"},
    {"broker": "rabbit\n"},
    {"direction": "x" * 1000},
    {"version": "x" * 1000},
    {"spool": {**SPOOL, "max_bytes": 0}},
    {"spool": {**SPOOL, "oldest_seconds": "1"}},
    {"spool": []},
]


@pytest.fixture(autouse=True)
def timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "QUERY_TIMEOUT", TIMEOUT)


class Target:
    max_unconfirmed = 1

    def send(self, notification: object) -> None:
        raise AssertionError(notification)


class Reporter:
    """A bridge with the figures of a pipeline that has nothing to do."""

    def __init__(self, spool: Spool) -> None:
        self._pipeline = Pipeline(Target(), spool, lambda: 0.0)

    def report(self) -> Mapping[str, object]:
        return self._pipeline.report()


@contextlib.contextmanager
def answers(directory: Path, name: str, line: bytes, *, close: bool = True) -> Iterator[None]:
    """Answer each connection to the status socket of a bridge with these bytes."""
    (directory / name).mkdir()
    kept: list[socket.socket] = []

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                kept.append(connection)
                with contextlib.suppress(OSError):
                    connection.sendall(line)
                if close:
                    connection.close()

    with bind_listener(directory / name / "status.sock") as listener:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in kept:
                each.close()


def answer(directory: Path) -> BridgeStatus | Problem:
    [bridge] = query_all(os.fspath(directory))
    return bridge.answer


def shown(directory: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["bridges", "--bridge-dir", os.fspath(directory), *arguments]) == 0
    return capsys.readouterr().out


def test_fields_are_those_of_a_bridge(directory: Path) -> None:
    path = directory / "b" / "status.sock"
    path.parent.mkdir()
    with (
        closing(Spool(os.fspath(directory / "spool"), 64 * 1024, 3600)) as spool,
        answering(os.fspath(path), Reporter(spool), "b", "out", "nats"),
    ):
        found = answer(directory)
        assert isinstance(found, BridgeStatus)
        assert (found.name, found.direction, found.broker) == ("b", "out", "nats")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(os.fspath(path))
            with connection.makefile() as stream:
                sent = json.loads(stream.read())
    assert sent.keys() == set(BridgeStatus.__struct_fields__)
    assert sent["spool"].keys() == set(SpoolStatus.__struct_fields__)


def test_fields_are_those_of_a_bridge_to_a_relay() -> None:
    class Source:
        def acknowledge(self, count: int) -> None:
            raise AssertionError(count)

    out = REPORT.keys() - {"name", "version", "pid", "direction", "broker", "since"}
    report = InboundPipeline("b", 1000, Source(), lambda: 0.0).report()
    assert report.keys() == out
    assert msgspec.convert({**REPORT, **report}, BridgeStatus).behind == 0


def test_constants_are_those_of_the_bridge() -> None:
    assert BRIDGE_DIRECTORY == status.RUNTIME_DIRECTORY
    assert client.STATUS_SOCKET == status.STATUS_SOCKET


def test_each_bridge_is_a_row(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "gone").mkdir()
    bind_listener(directory / "gone" / "status.sock").close()
    (directory / "without-socket").mkdir()
    (directory / "file").write_text("")
    with (
        serve(directory, "out", REPORT),
        serve(directory, "in", {**REPORT, "direction": "in", "broker": "kafka", "spool": None}),
    ):
        rows = json.loads(shown(directory, capsys, "-f", "json"))
        table = shown(directory, capsys, "--sort-column", "dropped")
    assert [row["name"] for row in rows] == ["gone", "in", "out"]
    assert set(rows[0].values()) == {"gone", "not running", None}
    assert rows[2] == {
        "name": "out",
        "state": "running",
        "direction": "out",
        "broker": "rabbit",
        "connected": True,
        "confirmed": 7,
        "behind": 4 + 5 + 6,
        "spooled_bytes": 8192,
        "spooled_seconds": 90.5,
        "dropped": 2,
    }
    assert rows[1] == {
        **rows[2],
        "name": "in",
        "direction": "in",
        "broker": "kafka",
        "behind": 4 + 5,
        "spooled_bytes": None,
        "spooled_seconds": None,
        "dropped": None,
    }
    lines = [line for line in table.splitlines() if "|" in line]
    assert "8.0 KiB" in lines[1]
    assert "0:01:30" in lines[1]
    assert lines[3].count(" - ") >= 3


@pytest.mark.parametrize(
    "line",
    [
        b"x" * 100_000,
        b"{}\n",
        b"null\n",
        b"[" * 10_000 + b"\n",
        b'{"name":"\xff"}\n',
        *(json.dumps({**REPORT, **each}).encode() + b"\n" for each in WRONG),
        json.dumps(REPORT).encode().replace(b"90.5", b"1e999"),
    ],
)
def test_answer_of_no_bridge_is_invalid(
    directory: Path, line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with answers(directory, "b", line):
        found = answer(directory)
        assert isinstance(found, Problem)
        assert found.state == "invalid answer"
        assert len(found.reason) < 500
        assert found.reason.isprintable()
        assert "invalid answer" in shown(directory, capsys)


def test_answer_ends_with_the_line(directory: Path) -> None:
    with answers(directory, "b", json.dumps(REPORT).encode() + b"\n", close=False):
        assert isinstance(answer(directory), BridgeStatus)


def test_silent_bridges_cost_one_timeout(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "QUERY_TIMEOUT", 0.1)
    with (
        answers(directory, "half", b'{"name"', close=False),
        answers(directory, "silent", b"", close=False),
        answers(directory, "short", b""),
    ):
        rows = json.loads(shown(directory, capsys, "-f", "json"))
    states = {row["name"]: row["state"] for row in rows}
    assert states == dict.fromkeys(("half", "silent", "short"), "no answer")


def test_name_cannot_control_the_terminal(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(directory, "\x1b[31m\n", REPORT):
        for form in ("table", "csv", "json"):
            assert "\x1b" not in shown(directory, capsys, "-f", form)


def test_no_bridge_is_not_running(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for each in (directory, directory / "missing"):
        with pytest.raises(NotRunningError, match="no bridge is running"):
            query_all(os.fspath(each))
    assert main(["bridges", "--bridge-dir", os.fspath(directory)]) == 3
    assert "no bridge is running" in capsys.readouterr().err


def test_too_many_directories_are_an_error(directory: Path) -> None:
    for number in range(257):
        (directory / str(number)).mkdir()
    with pytest.raises(CtlError, match="more than 256 entries"):
        query_all(os.fspath(directory))


def collected(directory: Path) -> tuple[Samples, list[str]]:
    """Return the samples without the common prefix, and the problems."""
    collector = BridgeCollector(os.fspath(directory))
    registry = CollectorRegistry()
    registry.register(collector)
    found = samples(generate_latest(registry).decode())
    prefix = "notif_relayd_bridge_"
    return {(key.removeprefix(prefix), *labels): n for (key, *labels), n in found.items()}, (
        collector.problems
    )


def test_figures_are_metrics(directory: Path) -> None:
    in_report = {**REPORT, "direction": "in", "connected": False, "spool": None}
    with serve(directory, "o", REPORT), serve(directory, "i", in_report):
        found, problems = collected(directory)
    out = ("o", "rabbit", "out")  # in the order of the names of the labels
    assert problems == []
    assert {key[0]: value for key, value in found.items() if key[1:] == out} == {
        "connected": 1,
        "unconfirmed": 4,
        "waiting": 5,
        "confirmed_total": 7,
        "repeated_total": 8,
        "refused_total": 9,
        "skipped_total": 10,
        "spooled_total": 11,
        "spool_records": 6,
        "spool_bytes": 8192,
        "spool_max_bytes": 65536,
        "spool_oldest_seconds": 90.5,
        "spool_dropped_total": 2,
        "spool_failed": 0,
    }
    assert found["up", "o"] == found["up", "i"] == 1
    assert found["connected", "i", "rabbit", "in"] == 0
    assert not [key for key in found if key[0].startswith("spool_") and "i" in key]


def test_bridges_without_answer_are_up_0(directory: Path) -> None:
    for number in range(5):
        (directory / f"gone{number}").mkdir()
        bind_listener(directory / f"gone{number}" / "status.sock").close()
    with serve(directory, "well", {**REPORT, "spool": {**SPOOL, "oldest_seconds": None}}):
        found, problems = collected(directory)
    assert {key[1]: value for key, value in found.items() if key[0] == "up"} == {
        **{f"gone{number}": 0 for number in range(5)},
        "well": 1,
    }
    assert found["spool_oldest_seconds", "well", "rabbit", "out"] == 0
    assert problems[0] == f"bridge gone0: no process listens on {directory}/gone0/status.sock"
    assert problems[3:] == ["2 more bridges do not answer"]


def test_names_that_look_equal_are_one_series(directory: Path) -> None:
    with serve(directory, "a\n", REPORT), serve(directory, "a\\n", REPORT):
        found, _ = collected(directory)
    assert [key for key in found if key[0] == "up"] == [("up", "a\\n")]


def test_no_bridge_has_no_metrics(directory: Path) -> None:
    assert collected(directory / "missing") == ({}, [])
