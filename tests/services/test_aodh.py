# SPDX-License-Identifier: Apache-2.0
"""Alarms for events: ceilometer and aodh, which use one relay instead of a broker.

Each program has two workers. ceilometer's agent makes an event of a notification and sends it to
the topic alarm.all. aodh-listener evaluates it and sends an alarm to the topic alarming, of which
aodh-notifier writes a line to its log.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from support.doctor import examine
from support.relay import RunningRelay
from support.services import program, run_to_end, running_service
from support.telemetry import WORKERS, notification, start_agent, wait_workers
from support.waiting import wait_until

CONFIGURATION = """
[DEFAULT]
log_file = {directory}/aodh.log
[database]
connection = sqlite:///{directory}/aodh.db
[listener]
workers = {workers}
[notifier]
workers = {workers}
[oslo_messaging_notifications]
transport_url = unix://{public}
"""

CREATE_ALARM = """
import datetime, sys
from aodh import service, storage
from aodh.storage.models import Alarm

conf = service.prepare_service(sys.argv[1:], config_files=[], with_gmr=False)
connection = storage.get_connection_from_config(conf)
connection.upgrade()
created = datetime.datetime(2026, 1, 31)
connection.create_alarm(Alarm(
    alarm_id="alarm", type="event", enabled=True, name="alarm", description="", timestamp=created,
    user_id="user", project_id="project", state="insufficient data", state_timestamp=created,
    state_reason="", ok_actions=[], alarm_actions=["log://"], insufficient_data_actions=[],
    repeat_actions=True, rule={"event_type": "compute.*", "query": []}, time_constraints=[],
    severity="low",
))
"""


def alarms(directory: Path) -> list[int]:
    """Return the numbers of the notifications for which there was an alarm."""
    text = (directory / "aodh.log").read_text()
    return [int(each, 16) for each in re.findall(r"Notifying alarm .* Event <id=(\w+)", text)]


def wait_alarms(directory: Path, number: int) -> None:
    wait_until(lambda: len(alarms(directory)) >= number, f"{number} alarms")


def assert_doctor_knows(directory: Path, conf: str) -> None:
    """Assert that relayctl doctor recognises a running program and finds no fault."""
    rows = examine(directory, "--no-round-trip", "--service-config", conf)
    found = {row["check"]: row["result"] for row in rows if conf in row["check"]}
    checks = {f"service {conf} {each}" for each in ("driver", "transport_url", "user")}
    assert found == dict.fromkeys(checks | {f"library {conf}"}, "ok"), rows


def test_each_notification_causes_one_alarm(relay: RunningRelay) -> None:
    directory = relay.directory
    configuration = directory / "aodh.conf"
    configuration.write_text(
        CONFIGURATION.format(directory=directory, public=relay.public, workers=WORKERS)
    )
    options = "--config-file", os.fspath(configuration)
    run_to_end(program("python"), "-c", CREATE_ALARM, *options)
    with contextlib.ExitStack() as stack:
        for name in ("aodh-listener", "aodh-notifier"):
            log = directory / f"{name}.log"
            stack.enter_context(running_service(log, program(name), *options))
        publisher = "notifier://?topic=alarm.all"
        stack.enter_context(start_agent(relay, directory / "agent.log", event=publisher))
        for topic in ("notifications", "alarm.all", "alarming"):
            wait_workers(relay, f"topic:{topic}")
        for name in ("aodh", "ceilometer"):
            assert_doctor_knows(directory, f"{directory}/{name}.conf")
        producer = stack.enter_context(relay.produce())
        for number in range(20):
            producer.sendall(notification(number))
            wait_alarms(directory, number + 1)  # because SQLite refuses to write for two workers
        assert alarms(directory) == [*range(20)]
        # One notification each of the test, ceilometer and aodh-listener.
        assert relay.status()["records_received"] == 3 * 20
        assert all(each["redelivered"] == 0 for each in relay.request("groups"))
