# SPDX-License-Identifier: Apache-2.0
"""Tests of the target NATS with a real nats-server."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bridge_targets import SimplePipeline, create_target, event
from support.nats_server import NatsServer, needs_nats
from support.proxy import Proxy

pytestmark = [needs_nats, pytest.mark.usefixtures("no_socket_left")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """Return a server without a stream."""
    with NatsServer(tmp_path) as server:
        yield server


def pipeline(server: NatsServer, **options: object) -> SimplePipeline:
    """Return a pipeline to a server."""
    return SimplePipeline(create_target(server.url, server.directory, **options))


def payloads(server: NatsServer) -> list[bytes]:
    """Return the records in the stream, each once, in the order of their first arrival."""
    return list(dict.fromkeys(message.data + b"\n" for message in server.messages()))


def test_records_are_stored_in_order_and_confirmed(server: NatsServer) -> None:
    server.add_stream()
    sent = [event(number, event_type=f"test.event{number % 7}") for number in range(3000)]
    with pipeline(server, max_unconfirmed=200) as bridge:
        bridge.send(sent)
        bridge.wait_answers(len(sent))
    assert bridge.answers == [(raw, None) for raw in sent]
    stored = server.messages()
    assert [message.data + b"\n" for message in stored] == sent
    assert stored[8].subject == "notifications.test.event1"
    assert stored[8].headers == {"Nats-Msg-Id": "id-8"}
    assert bridge.failures == []


def test_hostile_names_are_sent_as_valid_subjects(server: NatsServer) -> None:
    server.add_stream()
    names = ["", ".", "..a b..", "*.>", "a\r\nPUB x 1\r\n", "\ud800é", "$JS.API", "x" * 100_000]
    sent = [event(number, event_type=name) for number, name in enumerate(names)]
    with pipeline(server) as bridge:
        bridge.send(sent)
        bridge.wait_answers(len(sent))
    assert bridge.refusals == {}
    stored = server.messages()
    assert [message.data + b"\n" for message in stored] == sent
    assert [message.subject for message in stored[:7]] == [
        "notifications._",
        "notifications._._",
        "notifications._._.a_b._._",
        "notifications._._",
        "notifications.a__PUB_x_1__",
        "notifications.__",
        "notifications.$JS.API",
    ]
    assert len(stored[7].subject) == 1024


def test_hostile_message_ids_add_no_header(server: NatsServer) -> None:
    server.add_stream()
    ids = ["a\r\nNats-Expected-Stream: other", "é", "x" * 300, " a", "", 7]
    sent = [event(number, message_id=value) for number, value in enumerate(ids)]
    with pipeline(server) as bridge:
        bridge.send(sent)
        bridge.wait_answers(len(sent))
    assert [message.headers for message in server.messages()] == [None] * len(ids)
    assert bridge.refusals == {}


def test_oversized_record_is_refused_and_others_are_not(server: NatsServer) -> None:
    server.add_stream()
    limit = 1024 * 1024  # max_payload of the server
    empty = len(event(1, payload=""))
    # Without its headers, the second one would fit.
    sizes = [limit // 2, limit - 10, 10, limit + 1, limit - 100]
    sent = [event(1, payload="x" * (size - empty)) for size in sizes]
    sent = [raw.replace(b"id-1", b"id-%d" % number) for number, raw in enumerate(sent)]
    with pipeline(server) as bridge:
        bridge.send(sent)
        bridge.wait_answers(len(sent))
    assert [raw for raw, _ in bridge.answers] == sent
    assert list(bridge.refusals) == [sent[1], sent[3]]
    assert "max_payload" in bridge.refusals[sent[1]]
    assert bridge.failures == []
    assert payloads(server) == [sent[0], sent[2], sent[4]]


def test_record_above_the_limit_of_the_stream_is_refused(server: NatsServer) -> None:
    server.add_stream(max_msg_size=1000)
    sent = [event(number, payload="x" * (2000 if number % 3 == 0 else 0)) for number in range(9)]
    with pipeline(server) as bridge:
        bridge.send(sent)
        bridge.wait_answers(len(sent))
    assert [raw for raw, _ in bridge.answers] == sent
    assert list(bridge.refusals) == sent[::3]
    assert "max_msg_size" in bridge.refusals[sent[0]]
    assert bridge.failures == []


def test_missing_stream_is_a_failure_until_it_exists(server: NatsServer) -> None:
    sent = [event(number) for number in range(5)]
    with pipeline(server) as bridge:
        bridge.send(sent)
        bridge.wait_failure("no stream has the subject")
        assert bridge.answers == []
        server.add_stream()
        bridge.wait_answers(len(sent))
    assert payloads(server) == sent


def test_stream_is_created_on_request(server: NatsServer) -> None:
    options = {"stream": "made", "create_stream": True, "stream_max_age": 60}
    with pipeline(server, subject="notifications.x.{priority}", **options) as bridge:
        bridge.send([event(1)])
        bridge.wait_answers(1)
    config = server.config("made")
    assert config.subjects == ["notifications.x.>"]
    assert (config.max_age, config.max_bytes) == (60, 1 << 30)
    assert [each.subject for each in server.messages("made")] == ["notifications.x.info"]


def test_existing_stream_is_not_changed(server: NatsServer) -> None:
    server.add_stream(max_msgs=7)
    with pipeline(server, stream="events", create_stream=True) as bridge:
        bridge.wait_connected()
    assert server.config().max_msgs == 7


def test_other_stream_than_the_configured_one_is_a_failure(server: NatsServer) -> None:
    server.add_stream()
    with pipeline(server, stream="other") as bridge:
        bridge.send([event(1)])
        bridge.wait_failure("expected stream does not match")
    assert bridge.answers == []


def test_full_stream_is_a_failure_until_there_is_room(server: NatsServer) -> None:
    server.add_stream(max_msgs=2, discard="new")
    sent = [event(number) for number in range(5)]
    with pipeline(server) as bridge:
        bridge.send(sent)
        bridge.wait_failure("maximum messages exceeded")
        assert bridge.answers == [(raw, None) for raw in sent[:2]]

        async def purge(client: object) -> None:
            await client.jetstream().purge_stream("events")  # type: ignore[attr-defined]

        for count in (4, 5):
            server.run(purge)
            bridge.wait_answers(count)
    assert payloads(server) == sent[4:]


@pytest.mark.parametrize("create", [False, True])
def test_server_without_jetstream_is_a_failure(tmp_path: Path, create: bool) -> None:
    options = {"stream": "events", "create_stream": True} if create else {}
    with NatsServer(tmp_path, jetstream=False) as server, pipeline(server, **options) as bridge:
        bridge.send([event(1)])
        bridge.wait_failure("JetStream is not available" if create else "no stream")
    assert bridge.answers == []


def test_records_survive_kills_of_the_server(server: NatsServer) -> None:
    server.add_stream()
    sent = [event(number) for number in range(4000)]
    with pipeline(server, max_unconfirmed=50) as bridge:
        bridge.send(sent)
        for _ in range(3):
            bridge.wait_progress()
            server.kill()
            bridge.wait_failure("")
            server.start()
        bridge.wait_answers(len(sent))
    assert bridge.answers == [(raw, None) for raw in sent]
    assert bridge.connections > 1
    assert payloads(server) == sent


def test_reset_connections_leave_no_task(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.add_stream()
    with (
        Proxy(server.port) as proxy,
        SimplePipeline(create_target(f"nats://127.0.0.1:{proxy.port}", server.directory)) as bridge,
    ):
        for number in range(10):
            bridge.wait_connected()
            bridge.send(event(number * 200 + each) for each in range(200))
            proxy.refuse()
            bridge.wait_failures(number + 1)
            proxy.refuse(False)
            bridge.wait_answered()
    gc.collect()
    assert [each for each in caplog.messages if "Task" in each] == []


def test_second_server_is_used_if_the_first_one_is_away(server: NatsServer) -> None:
    server.add_stream()
    url = server.url.replace("127.0.0.1:", "127.0.0.1:1,127.0.0.1:")
    with SimplePipeline(create_target(url, server.directory)) as bridge:
        bridge.send([event(1)])
        bridge.wait_answers(1)
    assert "127.0.0.1:1: " in bridge.failures[0]


def test_stopped_server_confirms_nothing_and_loses_nothing(server: NatsServer) -> None:
    server.add_stream()
    sent = [event(number, payload="x" * 1000) for number in range(100)]
    with pipeline(server, ack_timeout=0.3) as bridge:
        bridge.wait_connected()
        server.stop()
        bridge.send(sent)
        bridge.wait_failure("no confirmation within 0.3 seconds")
        assert bridge.answers == []
        server.cont()
        bridge.wait_answers(len(sent))
    assert bridge.answers == [(raw, None) for raw in sent]
    assert payloads(server) == sent


def test_idle_connection_does_not_wait_for_confirmations(server: NatsServer) -> None:
    server.add_stream()
    with pipeline(server, ack_timeout=0.1) as bridge, pipeline(server) as other:
        bridge.send([event(1)])
        bridge.wait_answers(1)
        # This takes longer than ack_timeout.
        for count in range(1, 101):
            other.send([event(count)])
            other.wait_answers(count)
        bridge.send([event(2)])
        bridge.wait_answers(2)
    assert bridge.failures == []


def test_close_does_not_wait_for_a_stopped_server(server: NatsServer) -> None:
    server.add_stream()
    # More than the buffers of the kernel and of the client hold.
    sent = [event(number, payload="x" * 500_000) for number in range(50)]
    with pipeline(server) as bridge:
        bridge.wait_connected()
        server.stop()
        bridge.send(sent)
    server.cont()
    assert bridge.answers == []
