# SPDX-License-Identifier: Apache-2.0
"""ceilometer-agent-notification with two workers, which reads from relays instead of a broker.

Its pipeline writes each event to a file, so that lost events and duplicates can be counted.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oslo_context.context import RequestContext

from support.messaging import make_notifier, transport_to
from support.relay import Relay, RunningRelay, running_relay
from support.service_manager import managed_relay
from support.telemetry import (
    GROUP,
    notification,
    start_agent,
    wait_finished,
    wait_workers,
    wait_written,
    workers,
    written,
)
from support.waiting import wait_until

WINDOW = 256
"""Maximum number of unfinished notifications of a worker: the default of the transport."""


class Agent:
    """An agent on the host of one relay, with the files in the directory of the relay."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.log = relay.directory / "agent.log"
        self._events = relay.directory / "events"

    def workers(self) -> list[int]:
        return workers(self.relay)

    def wait_workers(self) -> None:
        wait_workers(self.relay)

    def group(self) -> dict[str, Any]:
        """Return the status of the group that the workers share."""
        (group,) = self.relay.request("groups")
        assert group["group"] == GROUP
        assert isinstance(group, dict)
        return group

    def wait_finished(self) -> None:
        """Wait until the workers have finished all that the relay has received."""
        wait_finished(self.relay)

    def numbers(self) -> list[int]:
        """Return the numbers of all events that the agent has written, sorted."""
        return sorted(map(_instance, self.events()))

    def events(self) -> list[dict[str, Any]]:
        """Return all events that the agent has written."""
        return written(self._events)

    def wait_written(self, number: int) -> None:
        """Wait until the agent has written this many events."""
        wait_written(self._events, number)


def _instance(event: dict[str, Any]) -> int:
    (value,) = (each["value"] for each in event["traits"] if each["name"] == "instance_id")
    return int(value)


@contextlib.contextmanager
def running_agent(relay: Relay) -> Iterator[Agent]:
    """Run an agent whose workers have joined their group, until the end of the block."""
    agent = Agent(relay)
    with start_agent(relay, agent.log, event=f"file://{relay.directory}/events?json"):
        agent.wait_workers()
        yield agent


def emit(relay: Relay, numbers: range) -> None:
    """Send a notification for each number."""
    with relay.produce() as producer:
        for number in numbers:
            producer.sendall(notification(number))


def test_two_workers_write_each_event_once(relay: RunningRelay) -> None:
    with running_agent(relay) as agent:
        emit(relay, range(2000))
        agent.wait_written(2000)
        agent.wait_finished()
        assert agent.numbers() == [*range(2000)]
        assert agent.group()["redelivered"] == agent.group()["dropped"] == 0


def test_events_of_a_killed_worker_go_to_the_other(relay: RunningRelay) -> None:
    with running_agent(relay) as agent:
        victim = agent.workers()[0]
        emit(relay, range(500))
        os.kill(victim, signal.SIGSTOP)
        emit(relay, range(500, 2000))
        # The other worker writes everything else.
        wait_until(
            lambda: not agent.group()["lag"] and agent.group()["unfinished"] == WINDOW,
            "only the stopped worker has unfinished notifications",
        )
        os.kill(victim, signal.SIGKILL)
        agent.wait_workers()  # the agent has started another one
        agent.wait_finished()
        assert agent.group()["redelivered"] == WINDOW
        emit(relay, range(2000, 2250))
        os.kill(agent.workers()[0], signal.SIGKILL)
        emit(relay, range(2250, 2500))
        agent.wait_workers()
        agent.wait_finished()
        # A worker that was killed may have written what it had not yet acknowledged.
        written = agent.numbers()
        assert {*written} == {*range(2500)}
        assert len(written) - 2500 <= agent.group()["redelivered"]
        assert agent.group()["dropped"] == 0


def test_context_sent_through_the_transport_is_used(relay: RunningRelay) -> None:
    context = RequestContext(request_id="req-1", project_id="project")
    with running_agent(relay) as agent, transport_to(relay.public) as transport:
        payload = {"instance_id": "1"}
        make_notifier(transport).info(context, "compute.instance.update", payload)
        agent.wait_written(1)
        (event,) = agent.events()
        traits = {each["name"]: each["value"] for each in event["traits"]}
        assert traits["request_id"] == "req-1"


def test_restart_of_the_relay_loses_no_event(directory: Path) -> None:
    with managed_relay(directory) as relay, running_agent(relay) as agent:
        with relay.produce() as producer:
            for number in range(2000):
                if number in {500, 1500}:
                    relay.restart()
                producer.sendall(notification(number))
        agent.wait_written(2000)
        agent.wait_finished()
        assert agent.numbers() == [*range(2000)]
        assert agent.group()["redelivered"] == agent.group()["dropped"] == 0


def test_loss_by_a_killed_relay_is_announced(directory: Path) -> None:
    with managed_relay(directory) as relay, running_agent(relay) as agent:
        emit(relay, range(1000))
        relay.kill()
        agent.wait_workers()
        emit(relay, range(1000, 2000))
        wait_until(lambda: "relay_restarted" in agent.log.read_text(), "the gap is logged")
        agent.wait_finished()
        assert {*range(1000, 2000)} <= set(agent.numbers())


def test_agents_of_two_hosts_read_their_own_relays(directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        agents = []
        for host in range(2):
            (directory / str(host)).mkdir()
            relay = stack.enter_context(running_relay(directory / str(host)))
            agents.append(stack.enter_context(running_agent(relay)))
        for host, agent in enumerate(agents):
            emit(agent.relay, range(host, 1000, 2))
        for host, agent in enumerate(agents):
            agent.wait_written(500)
            agent.wait_finished()
            assert agent.numbers() == [*range(host, 1000, 2)]
