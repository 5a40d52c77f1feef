# SPDX-License-Identifier: Apache-2.0
"""ceilometer-agent-notification with both pipelines and nova's topic of versioned notifications.

The agent makes events of all notifications, and samples of the unversioned ones and of what
ceilometer-polling sends. It has two workers, and writes both to files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.records import record
from support.relay import RunningRelay
from support.telemetry import start_agent, wait_finished, wait_workers, wait_written, written

NUMBERS = range(100)
TOPICS = "notifications", "versioned_notifications"
METERS = "disk.ephemeral.size", "disk.root.size", "memory", "vcpus"
"""Meters for which the agent makes samples of an unversioned notification."""


def notification(event_type: str, number: int, payload: dict[str, Any], **fields: str) -> bytes:
    return record(
        event_type,
        message_id=f"{event_type} {number}",
        publisher_id="compute.host-1",
        payload=payload,
        timestamp="2026-01-31 12:00:00.123456",
        **fields,
    )


def unversioned(number: int) -> bytes:
    payload = {
        "instance_id": f"instance {number}",
        "ephemeral_gb": 0,
        "memory_mb": 512,
        "root_gb": 1,
        "tenant_id": "project",
        "user_id": "user",
        "vcpus": 1,
    }
    return notification("compute.instance.exists", number, payload)


def versioned(number: int) -> bytes:
    payload = {
        "nova_object.name": "InstanceExistsPayload",
        "nova_object.namespace": "nova",
        "nova_object.version": "2.0",
        "nova_object.data": {"uuid": f"instance {number}"},
    }
    return notification("instance.exists", number, payload, _topic="versioned_notifications")


def polled(number: int) -> bytes:
    sample = {
        "counter_name": "cpu",
        "counter_type": "cumulative",
        "counter_unit": "ns",
        "counter_volume": number,
        "message_id": f"sample {number}",
        "project_id": "project",
        "resource_id": f"instance {number}",
        "resource_metadata": {},
        "source": "openstack",
        "timestamp": "2026-01-31T12:00:00.123456",
        "user_id": "user",
    }
    return notification("telemetry.polling", number, {"samples": [sample]}, priority="SAMPLE")


def events(directory: Path) -> list[str]:
    """Return the identifiers of the notifications of which there is an event, sorted."""
    return sorted(each["message_id"] for each in written(directory / "events"))


def samples(directory: Path) -> list[tuple[str, str]]:
    """Return the meter and the resource of each sample, sorted."""
    return sorted((each["name"], each["resource_id"]) for each in written(directory / "samples"))


def test_both_pipelines_and_topics_handle_all_once(relay: RunningRelay) -> None:
    directory = relay.directory
    expected_events = sorted(
        f"{event_type} {number}"
        for event_type in ("compute.instance.exists", "instance.exists")
        for number in NUMBERS
    )
    expected_samples = sorted(
        (meter, f"instance {number}") for meter in (*METERS, "cpu") for number in NUMBERS
    )
    with (
        start_agent(
            relay,
            directory / "agent.log",
            *TOPICS,
            event=f"file://{directory}/events?json",
            meter=f"file://{directory}/samples?json",
        ),
        relay.produce() as producer,
    ):
        for topic in TOPICS:
            wait_workers(relay, f"topic:{topic}")
        for number in NUMBERS:
            producer.sendall(unversioned(number) + versioned(number) + polled(number))
        wait_written(directory / "events", len(expected_events))
        wait_written(directory / "samples", len(expected_samples))
        wait_finished(relay)
        assert events(directory) == expected_events
        assert samples(directory) == expected_samples
        assert not any(each["redelivered"] + each["dropped"] for each in relay.request("groups"))
