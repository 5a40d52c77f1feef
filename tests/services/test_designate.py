# SPDX-License-Identifier: Apache-2.0
"""designate-sink, which listens in a pool, beside ceilometer's agent, which does not.

Both read the topic notifications from one relay. Each has two workers. designate-sink logs each
notification that it handles, by the handler that is made for tests.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from support.records import record
from support.relay import RunningRelay
from support.services import program, running_service
from support.telemetry import (
    GROUP,
    WORKERS,
    start_agent,
    wait_finished,
    wait_workers,
    wait_written,
    written,
)
from support.waiting import wait_until

EVENTS = [f"compute.instance.{number:03}" for number in range(500)]

CONFIGURATION = """
[DEFAULT]
state_path = {directory}
transport_url = fake://
[heartbeat_emitter]
emitter_type = noop
[service:sink]
workers = {workers}
listener_pool_name = sink
enabled_notification_handlers = fake
[handler:fake]
allowed_event_types = {events}
[oslo_messaging_notifications]
transport_url = unix://{public}
"""


def handled(log: Path) -> list[str]:
    """Return the types of the events that designate-sink has handled, sorted."""
    return sorted(re.findall(r"handler:fake: received notification - (\S+)", log.read_text()))


def event_types(events: Path) -> list[str]:
    """Return the types of the events that ceilometer's agent has written, sorted."""
    return sorted(each["event_type"] for each in written(events))


def test_pool_and_other_consumer_each_get_all_once(relay: RunningRelay) -> None:
    directory = relay.directory
    configuration = directory / "designate.conf"
    configuration.write_text(
        CONFIGURATION.format(
            directory=directory, events=",".join(EVENTS), public=relay.public, workers=WORKERS
        )
    )
    log = directory / "designate-sink.log"
    command = program("designate-sink"), "--config-file", os.fspath(configuration)
    events = directory / "events"
    with (
        running_service(log, *command),
        start_agent(relay, directory / "agent.log", event=f"file://{events}?json"),
        relay.produce() as producer,
    ):
        for group in ("sink", GROUP):
            wait_workers(relay, group)
        for number, event in enumerate(EVENTS):
            fields = {"message_id": f"{number:032x}", "timestamp": "2026-01-31 12:00:00.123456"}
            producer.sendall(record(event, publisher_id="compute.host-1", payload={}, **fields))
        wait_until(lambda: len(handled(log)) >= len(EVENTS), "designate-sink has handled all")
        wait_written(events, len(EVENTS))
        wait_finished(relay)
        assert handled(log) == event_types(events) == EVENTS
        assert sorted(each["group"] for each in relay.request("groups")) == ["sink", GROUP]
        assert not any(each["redelivered"] + each["dropped"] for each in relay.request("groups"))
