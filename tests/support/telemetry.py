# SPDX-License-Identifier: Apache-2.0
"""ceilometer-agent-notification with two workers, which reads from a relay or from a broker."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen
from typing import Any

from support.records import record
from support.relay import Relay
from support.services import program, running_service
from support.waiting import wait_until

WORKERS = 2

GROUP = "topic:notifications"
"""The group of a consumer without a pool."""

CONFIGURATION = """
[DEFAULT]
event_pipeline_cfg_file = {directory}/event_pipeline.yaml
pipeline_cfg_file = {directory}/pipeline.yaml
[event]
definitions_cfg_file = {directory}/event_definitions.yaml
[oslo_messaging_notifications]
topics = {topics}
transport_url = {url}
[notification]
workers = {workers}
"""

DEFINITIONS = """
- event_type: compute.*
  traits: {instance_id: {fields: payload.instance_id}}
"""
"""Definitions of events. Those of ceilometer take 2 s of processor time in each worker."""

PIPELINE = """
sources:
    - {{name: all, {kind}s: ["*"], sinks: [sink]}}
sinks:
    - {{name: sink, publishers: ["{publisher}"]}}
"""


def start_agent(
    relay: Relay, log: Path, *topics: str, url: str = "", **publishers: str
) -> AbstractContextManager[Popen[bytes]]:
    """Run an agent until the end of the block.

    Args:
        relay: Relay from which the agent reads. Its directory gets the configuration.
        log: File for the output of the agent.
        *topics: Topics that the agent reads; `notifications` by default.
        url: Where it reads instead of the relay, in the form of `transport_url`.
        **publishers: For each pipeline, `event` or `meter`, the URL of its publisher.
    """
    directory = relay.directory
    text = CONFIGURATION.format(
        directory=directory,
        url=url or f"unix://{relay.public}",
        topics=",".join(topics or ("notifications",)),
        workers=WORKERS,
    )
    (directory / "event_definitions.yaml").write_text(DEFINITIONS)
    for kind, publisher in publishers.items():
        text += f"pipelines = {kind}\n"
        file = directory / {"event": "event_pipeline.yaml", "meter": "pipeline.yaml"}[kind]
        file.write_text(PIPELINE.format(kind=kind, publisher=publisher))
    configuration = directory / "ceilometer.conf"
    configuration.write_text(text)
    command = program("ceilometer-agent-notification")
    return running_service(log, command, "--config-file", os.fspath(configuration))


def wait_written(file: Path, number: int) -> None:
    """Wait until a publisher has written this many events or samples."""
    wait_until(
        lambda: file.exists() and file.read_bytes().count(b"\n") >= number, f"{number} lines"
    )


def written(file: Path) -> list[dict[str, Any]]:
    """Return the events or samples in a file, without one that is just being written."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def workers(relay: Relay, group: str = GROUP) -> list[int]:
    """Return the process ids of the members of a group."""
    subscribers = relay.request("subscribers")
    return [each["pid"] for each in subscribers if each["group"] == group]


def wait_workers(relay: Relay, group: str = GROUP) -> None:
    """Wait until all workers are members of a group."""
    wait_until(lambda: len(workers(relay, group)) == WORKERS, f"all workers in {group}")


def wait_finished(relay: Relay) -> None:
    """Wait until all groups have finished all that the relay has received."""

    def is_finished() -> bool:
        return not any(each["lag"] + each["unfinished"] for each in relay.request("groups"))

    wait_until(is_finished, "everything is finished")


def notification(number: int) -> bytes:
    """Return a notification of which ceilometer makes an event."""
    return record(
        "compute.instance.update",
        message_id=f"{number:032x}",
        publisher_id="compute.host-1",
        payload={"instance_id": str(number), "tenant_id": "project", "state": "active"},
        timestamp="2026-01-31 12:00:00.123456",
    )
