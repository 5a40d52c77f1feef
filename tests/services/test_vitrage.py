# SPDX-License-Identifier: Apache-2.0
"""vitrage, whose programs notify each other through one relay, on topics of their own.

vitrage-graph reads the topic vitrage_notifications. It makes an alarm of an event, and sends it to
vitrage-persistor, which stores it in a database, and to vitrage-notifier, which logs it. It also
logs errors: it cannot store its graph in SQLite, and has no values for the severity of alarms.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from pathlib import Path

from support.records import record
from support.relay import RunningRelay
from support.services import program, run_to_end, running_service
from support.telemetry import wait_finished
from support.waiting import wait_until

ALARMS = 10

CONFIGURATION = """
[DEFAULT]
notifiers = webhook
transport_url = fake://
[database]
connection = sqlite:///{directory}/vitrage.db
[datasources]
types = doctor
[entity_graph]
workers = 1
[evaluator]
templates_dir = {directory}
[oslo_messaging_notifications]
transport_url = unix://{public}
"""

GROUPS = {
    "topic:vitrage_notifications",  # vitrage-graph
    "topic:vitrage.evaluator",  # vitrage-graph; nothing is sent to it here
    "topic:vitrage.graph",  # vitrage-notifier
    "topic:vitrage_persistor",  # vitrage-persistor
}


def host_down(host: str, **topic: str) -> bytes:
    """Return a notification of which vitrage makes an alarm."""
    details = {"hostname": host, "severity": "critical", "status": "down"}
    return record(
        "vitrage.custom.event.down",
        message_id=host,
        publisher_id="monitor.host-1",
        payload={
            "time": "2026-01-31T12:00:00.123456",
            "type": "compute.host.down",
            "details": details,
        },
        timestamp="2026-01-31 12:00:00.123456",
        **topic,
    )


def stored(directory: Path) -> list[str]:
    """Return the hosts of the alarms that vitrage-persistor has stored, sorted."""
    with contextlib.closing(sqlite3.connect(directory / "vitrage.db")) as database:
        rows = database.execute("SELECT json_extract(payload, '$.hostname') FROM alarms")
        return sorted(host for (host,) in rows)


def logged(directory: Path) -> list[str]:
    """Return the hosts of the alarms that vitrage-notifier has logged, sorted."""
    text = (directory / "vitrage-notifier.log").read_text()
    return sorted(re.findall(r"Vitrage Event Info: payload .*'hostname': '([^']*)'", text))


def groups(relay: RunningRelay) -> set[str]:
    return {each["group"] for each in relay.request("groups")}


def test_vitrage_reads_only_its_own_topics(relay: RunningRelay) -> None:
    directory = relay.directory
    configuration = directory / "vitrage.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, public=relay.public))
    options = "--config-file", os.fspath(configuration)
    run_to_end(program("vitrage-dbsync"), *options)
    expected = [f"host-{number}" for number in range(ALARMS)]
    with contextlib.ExitStack() as stack:
        for name in ("vitrage-notifier", "vitrage-persistor", "vitrage-graph"):
            log = directory / f"{name}.log"
            stack.enter_context(running_service(log, program(name), *options))
        wait_until(lambda: groups(relay) == GROUPS, "all programs listen")
        producer = stack.enter_context(relay.produce())
        for host in expected:
            producer.sendall(host_down(f"other {host}"))
            producer.sendall(host_down(host, _topic="vitrage_notifications"))
        wait_until(lambda: len(logged(directory)) >= ALARMS, "all alarms are logged")
        wait_until(lambda: len(stored(directory)) >= ALARMS, "all alarms are stored")
        wait_finished(relay)
    assert logged(directory) == stored(directory) == expected
    assert relay.status()["records_received"] == 4 * ALARMS
