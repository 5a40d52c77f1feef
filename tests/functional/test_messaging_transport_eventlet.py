# SPDX-License-Identifier: Apache-2.0
"""The transport in consumers and services that use eventlet's green threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.records import record
from support.relay import RunningRelay, running_relay
from support.scripts import Scripts
from support.waiting import wait_until

PATCH = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
"""

IMPORT = """
import sys
import oslo_messaging
from oslo_config import cfg
"""

SET_UP = """
conf = cfg.ConfigOpts()
conf([], project="consumer", default_config_files=[])
transport = oslo_messaging.get_notification_transport(conf, url="unix://" + sys.argv[1])
TOPIC = "notifications"
targets = [oslo_messaging.Target(topic=TOPIC)]
got = []

class Endpoint:
    def info(self, ctxt, publisher_id, event_type, payload, metadata):
        eventlet.sleep(0)
        got.append(payload)

    def warn(self, ctxt, publisher_id, event_type, payload, metadata):
        got.append(payload["reason"])

class BatchEndpoint:
    def info(self, notifications):
        got.extend(each["payload"] for each in notifications)

def wait_for(number):
    with eventlet.Timeout(30):
        while len(got) < number:
            eventlet.sleep(0.001)

# Other green threads must run while the listener waits.
ticks = 0

def tick():
    global ticks
    while True:
        ticks += 1
        eventlet.sleep(0.001)

def others_run():
    before = ticks
    with eventlet.Timeout(30):
        while ticks < before + 3:
            eventlet.sleep(0.001)

eventlet.spawn(tick)
"""

ORDERS = {"patched first": PATCH + IMPORT, "patched after the import": IMPORT + PATCH}

NOTIFY_AND_LISTEN = """
for make, endpoint, how in (
    (oslo_messaging.get_notification_listener, Endpoint(), {}),
    (oslo_messaging.get_batch_notification_listener, BatchEndpoint(),
     {"batch_size": 7, "batch_timeout": 0.05}),
):
    for executor in ("eventlet", None):  # None: oslo.messaging detects the patch
        listener = make(transport, targets, [endpoint], executor=executor, **how)
        for round in range(2):
            listener.start()
            others_run()
            notifier = oslo_messaging.Notifier(transport, "p", driver="messagingv2", topics=[TOPIC])
            pool = eventlet.GreenPool()
            for each in range(50):
                pool.spawn(notifier.info, {}, "event", each)
            pool.waitall()
            wait_for(50)
            assert sorted(got) == list(range(50)), got
            got.clear()
            listener.stop()
            listener.wait()
transport.cleanup()
print("done")
"""


@pytest.mark.parametrize("order", ORDERS)
def test_green_threads_notify_and_listen(scripts: Scripts, relay: RunningRelay, order: str) -> None:
    script = scripts.run("-c", ORDERS[order] + SET_UP + NOTIFY_AND_LISTEN, relay.public)
    assert script.finish() == "done\n"
    relay.wait_status(subscribers=0)


LISTEN = """
listener = oslo_messaging.get_notification_listener(
    transport, targets, [Endpoint()], executor="eventlet"
)
listener.start()
others_run()
print("listening", flush=True)
wait_for(3)
others_run()
print(*got)
listener.stop()
listener.wait()
"""


@pytest.mark.parametrize("order", ORDERS)
def test_green_listener_reconnects_to_the_relay(
    scripts: Scripts, directory: Path, order: str
) -> None:
    script = scripts.run("-c", ORDERS[order] + SET_UP + LISTEN, directory / "notifications.sock")
    assert script.line() == "listening"
    for payload in ("first", "second"):
        with running_relay(directory) as relay, relay.produce() as producer:
            wait_until(lambda: relay.status()["bytes_delivered"], "the listener has subscribed")
            producer.sendall(record(payload=payload))
            relay.wait_status(records_received=1)
            assert relay.stop() == 0
        (directory / "notify.sock").unlink()
    assert script.finish().split() == ["first", "relay_restarted", "second"]
