# SPDX-License-Identifier: Apache-2.0
"""Every record reaches a real broker while the bridge and the broker are killed."""

from __future__ import annotations

import json
from pathlib import Path

from support.bridge import RealBridge, running_bridge
from support.nats_server import NatsServer, needs_nats
from support.records import record
from support.relay import Relay
from support.waiting import wait_until

PRODUCERS = 3
BATCH = 200


class Producers:
    """Several producers, which send numbered records."""

    def __init__(self, relay: Relay) -> None:
        self.sockets = [relay.produce() for _ in range(PRODUCERS)]
        self.count = 0
        """Number of records of each producer."""

    def emit(self) -> None:
        for producer, sock in enumerate(self.sockets):
            numbers = range(self.count, self.count + BATCH)
            sock.sendall(
                b"".join(
                    record(message_id=f"{producer}-{each}", publisher_id=f"p.{producer}")
                    for each in numbers
                )
            )
        self.count += BATCH

    def close(self) -> None:
        for each in self.sockets:
            each.close()


def stored_ids(server: NatsServer) -> list[str]:
    """Return the message ids in the stream, each once, in the order of their first arrival."""
    messages = [json.loads(each.data) for each in server.messages()]
    assert not [each for each in messages if each["event_type"] == "notif_relayd.gap"]
    return list(dict.fromkeys(each["message_id"] for each in messages))


@needs_nats
def test_no_record_is_lost_or_reordered(directory: Path, relay: Relay) -> None:
    producers = Producers(relay)
    with (
        NatsServer(directory) as server,
        running_bridge(directory, relay, server.url, RealBridge) as bridge,
    ):
        server.add_stream()
        bridge.wait_logged("connected to the broker")
        for killed in (server, bridge, server, bridge):
            producers.emit()
            killed.kill()
            producers.emit()
            killed.start()
            producers.emit()
        expected = producers.count * PRODUCERS
        wait_until(lambda: len(stored_ids(server)) >= expected, "every record is stored")
        ids = stored_ids(server)
        for producer in range(PRODUCERS):
            own = [each for each in ids if each.startswith(f"{producer}-")]
            assert own == [f"{producer}-{number}" for number in range(producers.count)]
        assert bridge.stop() == 0
    producers.close()
