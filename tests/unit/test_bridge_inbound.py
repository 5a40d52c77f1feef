# SPDX-License-Identifier: Apache-2.0
"""What a bridge from a broker writes to the relay, and what it acknowledges."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from notif_relay import records
from notif_relayd.records.validator import Reason, Validator
from notif_relayd_bridge.brokers.source import Source
from notif_relayd_bridge.inbound import bridge
from notif_relayd_bridge.inbound.bridge import SourceConnection
from notif_relayd_bridge.inbound.pipeline import MAX_CHUNK, Pipeline
from notif_relayd_bridge.inbound.record import UnreadableRecordError, prepare
from notif_relayd_bridge.marker import is_brought_in
from support.records import numbered_record, record

NAME = "hub"
LIMIT = 10_000


class Broker:
    """Counts acknowledgements."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def acknowledge(self, count: int) -> None:
        self.acknowledged.append(count)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def pipeline(broker: Broker) -> Pipeline:
    pipeline = Pipeline(NAME, LIMIT, broker, itertools.count().__next__)
    pipeline.connect()
    return pipeline


def marked(number: int) -> bytes:
    return record(number=number, _bridge=NAME)


def receive(pipeline: Pipeline, *numbers: int) -> None:
    for number in numbers:
        pipeline.receive(record(number=number))


def write_all(pipeline: Pipeline) -> bytes:
    data = pipeline.chunk()
    pipeline.write(len(data))
    return data


def payloads(data: bytes) -> list[object]:
    return [json.loads(line).get("payload") for line in data.splitlines()]


def test_read_records_are_acknowledged(pipeline: Pipeline, broker: Broker) -> None:
    receive(pipeline, 1, 2, 3)
    assert write_all(pipeline) == marked(1) + marked(2) + marked(3)
    assert (broker.acknowledged, pipeline.unacknowledged, pipeline.unread) == ([], 3, True)
    pipeline.read()
    assert (broker.acknowledged, pipeline.unacknowledged, pipeline.idle) == ([3], 0, True)


def test_partly_written_record_is_not_acknowledged(pipeline: Pipeline, broker: Broker) -> None:
    receive(pipeline, 1, 2)
    pipeline.write(len(marked(1)) + 5)
    assert pipeline.chunk() == marked(2)[5:]
    pipeline.read()
    assert broker.acknowledged == [1]


def test_unread_and_partly_written_records_are_written_again(
    pipeline: Pipeline, broker: Broker
) -> None:
    receive(pipeline, 1, 2, 3, 4)
    pipeline.write(len(marked(1)))
    pipeline.read()
    pipeline.write(len(marked(2)) + 5)
    pipeline.restart()
    assert write_all(pipeline) == marked(2) + marked(3) + marked(4)
    pipeline.read()
    assert broker.acknowledged == [1, 3]


def test_failure_forgets_records_but_completes_one(pipeline: Pipeline, broker: Broker) -> None:
    receive(pipeline, 1, 2, 3)
    pipeline.write(len(marked(1)) + 5)
    pipeline.fail("test")
    pipeline.connect()
    receive(pipeline, 1, 2)
    assert write_all(pipeline) == marked(2)[5:] + marked(1) + marked(2)
    pipeline.read()
    assert broker.acknowledged == [2]
    assert (pipeline.counters.repeated, pipeline.counters.confirmed) == (3, 2)


def test_both_connections_fail(pipeline: Pipeline, broker: Broker) -> None:
    receive(pipeline, 1, 2)
    pipeline.write(5)
    pipeline.fail("test")
    pipeline.restart()
    assert pipeline.idle
    pipeline.connect()
    receive(pipeline, 1, 2)
    assert write_all(pipeline) == marked(1) + marked(2)


def test_chunk_is_bounded(pipeline: Pipeline) -> None:
    for number in range(100):
        pipeline.receive(numbered_record(number, 1024))
    size = len(pipeline.chunk())
    assert MAX_CHUNK - 2048 < size <= MAX_CHUNK


def test_gap_takes_the_place_of_unreadable_messages(pipeline: Pipeline, broker: Broker) -> None:
    receive(pipeline, 1)
    pipeline.refuse("test")
    pipeline.receive(b"[]")
    receive(pipeline, 2)
    pipeline.receive(b"x" * LIMIT)
    one, gap, two, other = write_all(pipeline).splitlines(keepends=True)
    assert (one, two) == (marked(1), marked(2))
    assert [json.loads(each)["payload"]["dropped"] for each in (gap, other)] == [2, 1]
    pipeline.read()
    assert broker.acknowledged == [5]
    assert pipeline.counters.refused == 3


def test_partly_written_gap_record_does_not_grow(pipeline: Pipeline) -> None:
    pipeline.refuse("test")
    gap = pipeline.chunk()
    pipeline.write(5)
    pipeline.refuse("test")
    assert pipeline.chunk().startswith(gap[5:])
    assert [each["dropped"] for each in payloads(gap[:5] + pipeline.chunk())] == [1, 1]  # type: ignore[index]


def test_acknowledgement_after_a_failure_has_no_effect(broker: Broker) -> None:
    entries: list[Callable[[], None]] = []
    connection = SourceConnection(cast(Source, broker), entries.append)  # type: ignore[arg-type]
    connection.pipeline = Pipeline(NAME, LIMIT, connection, itertools.count().__next__)
    connection.connected()
    connection.acknowledge(1)
    entries.pop()()
    connection.acknowledge(2)
    # The source is connected again before the main thread learns of the failure.
    connection.failed("test")
    connection.connected()
    connection.acknowledge(3)
    for each in entries:
        each()
    connection.acknowledge(4)
    assert broker.acknowledged == [2, 4]


@pytest.mark.parametrize(
    "fields", ["", ', "_bridge": "other"', ', "_bridge": null', ', "_bridge": {}']
)
@pytest.mark.parametrize("end", ["", "\n", " \n\n", "\r\n"])
def test_any_record_is_marked_once(fields: str, end: str) -> None:
    text = '{"event_type": "a", "priority": "b", "payload": {"_bridge": "x"}' + fields + "}" + end
    found = prepare(text.encode(), NAME, LIMIT)
    assert is_brought_in(found)
    pairs = json.loads(found, object_pairs_hook=list)
    assert [each[0] for each in pairs] == ["event_type", "priority", "payload", "_bridge"]
    assert dict(json.loads(found)) | {"payload": 0} == {
        "event_type": "a",
        "priority": "b",
        "payload": 0,
        "_bridge": NAME,
    }
    assert found.count(b"\n") == 1
    assert found.endswith(b"\n")


def test_mark_in_an_unusual_spelling_counts() -> None:
    text = rb'{"event_type": "a", "priority": "b", "\u005fbridge": "x"}'
    assert json.loads(prepare(text, NAME, LIMIT))["_bridge"] == NAME


def test_record_in_several_lines_becomes_one() -> None:
    text = json.dumps({"event_type": "a", "priority": "b", "payload": "\n"}, indent=2).encode()
    found = prepare(text, NAME, LIMIT)
    assert json.loads(found)["payload"] == "\n"
    assert Validator(LIMIT).validate(found).rejected == []


GAP = records.gap(7, "spool_full")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b'"event_type"',
        b'[{"event_type": "a", "priority": "b"}]',
        b'{"event_type": "a"}',
        b'{"event_type": 1, "priority": "b"}',
        b'{"event_type": {}, "event_type": "a", "priority": "b"}',
        b'{"event_type": "a", "priority": "b", "payload": NaN}',
        b'{"event_type": "a", "priority": "b"} {}',
        b'{"event_type": "a", "priority": "b"',
        b'\xef\xbb\xbf{"event_type": "a", "priority": "b"}',
        b'{"event_type": "\xff", "priority": "b"}',
        b'{"event_type": "notif_relayd.error", "priority": "b", "payload": ""}',
        b'{"event_type": "notif_relayd\\u002egap", "priority": "b", "payload": {"dropped": 1}}',
        b'{"event_type": "a", "event_type": "notif_relayd.gap", "priority": "b"}',
        record(payload="x" * LIMIT),
    ],
)
def test_record_that_the_relay_would_reject_is_unreadable(text: bytes) -> None:
    with pytest.raises(UnreadableRecordError):
        prepare(text, NAME, LIMIT)


def test_record_that_is_nested_too_deeply_is_unreadable() -> None:
    text = b'{"event_type": "a", "priority": "b", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(UnreadableRecordError, match="nested too deeply"):
        prepare(text, NAME, 2 * len(text))


@pytest.mark.parametrize(
    "text",
    [
        record(payload={"number": 1}),
        record(payload="ü\ud800", number=10**700),
        b'{"event_type": "a", "priority": "b", "_bridge": 1e999}',
        b'{"event_type": "a", "priority": "b", "_bridge": 1, "x": 1e999}',
        b'{"event_type": "a", "priority": "b", "_bridge": 1, "x": ' + b"9" * 5000 + b"}",
        GAP,
        GAP[:-2] + b' , "x": "' + b"x" * (760 - len(GAP) - 11) + b'"}\n',
        GAP.replace(b"spool_full", b"unknown_reason"),
    ],
    ids=[
        *("plain", "unusual", "huge number", "huge number elsewhere", "many digits"),
        *("gap", "large gap", "unknown gap"),
    ],
)
def test_relay_accepts_prepared_records(text: bytes) -> None:
    found = prepare(text, NAME, LIMIT)
    validated = Validator(LIMIT).validate(found)
    assert validated.records == found
    assert is_brought_in(found)
    if b"notif_relayd.gap" in text:
        reason = "undeliverable" if b"unknown" in text else "spool_full"
        assert validated.gaps == [(7, reason)]


def test_mark_may_exceed_the_limit() -> None:
    with pytest.raises(UnreadableRecordError, match="with the mark"):
        prepare(numbered_record(1, LIMIT), NAME, LIMIT)


def test_relay_with_a_deeper_stack_accepts_nested_records() -> None:
    def rejected(data: bytes, frames: int) -> list[Reason]:
        return rejected(data, frames - 1) if frames else Validator(LIMIT).validate(data).rejected

    accepted = 0
    for depth in range(800, 1000):
        # The relay decodes all of it because of the escape sequence.
        fields = record(event_type="a.b").rstrip(b"}\n").replace(b"a.b", b"a\\u002eb")
        nested = fields + b', "x": ' + b"[" * depth + b"]" * depth + b"}"
        with contextlib.suppress(UnreadableRecordError):
            assert rejected(prepare(nested, NAME, LIMIT), frames=40) == []
            accepted += 1
    assert accepted > 0


class SilentSource:
    """A source that never reports anything."""

    max_unacknowledged = 1

    def start(self, events: object) -> None: ...

    def acknowledge(self, count: int) -> None: ...

    def close(self) -> None: ...


def test_once_tells_a_broker_that_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bridge, "ANSWER_TIMEOUT", 0.0)
    path = str(tmp_path / "ingest.sock")
    error = bridge.Bridge(NAME, path, LIMIT, SilentSource(), once=True).run()
    assert error.startswith("the broker was not ready within 0 s, see the log; ")
