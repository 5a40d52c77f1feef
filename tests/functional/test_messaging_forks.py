# SPDX-License-Identifier: Apache-2.0
"""Consumers with oslo.messaging that fork: the child leaves its parent's listener alone."""

from __future__ import annotations

import pytest

from support.records import record
from support.relay import RunningRelay
from support.scripts import Scripts

CONSUMER = """
import logging, os, queue, sys, threading, time
import oslo_messaging
from oslo_config import cfg

conf = cfg.ConfigOpts()
conf([], project="consumer", default_config_files=[])
got = queue.Queue()

class Endpoint:
    def info(self, ctxt, publisher_id, event_type, payload, metadata):
        got.put(payload)

def listen():
    transport = oslo_messaging.get_notification_transport(conf, url="unix://" + sys.argv[1])
    target = oslo_messaging.Target(topic="notifications")
    listener = oslo_messaging.get_notification_listener(
        transport, [target], [Endpoint()], executor=EXECUTOR
    )
    listener.start()
    return transport, listener

transport, listener = listen()
print("listening", flush=True)
print(got.get(timeout=30), flush=True)
pid = os.fork()
if not pid:
    CHILD
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print("waited", flush=True)
print(sorted(got.get(timeout=30) for _ in range(50)) == list(range(50)), flush=True)
listener.stop()
listener.wait()
"""

CHILDREN = {
    "exits": "sys.exit()",
    "stops": "listener.stop()",
    "cleans up": "transport.cleanup()",
    "listens itself": """
    transport, listener = listen()
    print("listening", flush=True)
    print("child", got.get(timeout=30), flush=True)
    listener.stop()
    listener.wait()
""",
}


def program(child: str, executor: str = "threading") -> str:
    return CONSUMER.replace("CHILD", child).replace("EXECUTOR", repr(executor))


@pytest.mark.parametrize("child", CHILDREN)
def test_child_leaves_its_parents_listener_running(
    relay: RunningRelay, scripts: Scripts, child: str
) -> None:
    script = scripts.run("-W", "ignore", "-c", program(CHILDREN[child]), f"{relay.public}?group=-")
    assert script.line() == "listening"
    with relay.produce() as producer:
        producer.sendall(record(payload="first"))
        assert script.line() == "first"
        if child == "listens itself":
            assert script.line() == "listening"
            producer.sendall(record(payload="both"))
            assert script.line() == "child both"
        assert script.line() == "waited"
        if child != "listens itself":
            producer.sendall(b"".join(record(payload=number) for number in range(50)))
            assert script.finish() == "True\n"


EVENTLET = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
""" + program(
    """
    eventlet.hubs.use_hub()  # as oslo.service does: the parent's hub has its epoll object
    listener.stop()
    while True:
        eventlet.sleep(0.001)
""",
    "eventlet",
).replace("assert os.waitpid(pid, 0)[1] == 0", "").replace(
    "listener.stop()\nlistener.wait()", "os.kill(pid, 9)\nlistener.stop()\nlistener.wait()"
)


def test_child_with_green_threads_takes_no_notification(
    relay: RunningRelay, scripts: Scripts
) -> None:
    script = scripts.run("-W", "ignore", "-c", EVENTLET, relay.public)
    assert script.line() == "listening"
    with relay.produce() as producer:
        producer.sendall(record(payload="first"))
        assert script.line() == "first"
        assert script.line() == "waited"
        for number in range(50):
            producer.sendall(record(payload=number))
            relay.wait_status(records_delivered=number + 2)
        assert script.finish() == "True\n"
