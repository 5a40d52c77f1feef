# SPDX-License-Identifier: Apache-2.0
"""watcher's endpoint for nova, in a listener that watcher makes: two topics in one pool.

A program sets both up as watcher-decision-engine does, which itself needs keystone. The endpoint
adds an instance to watcher's model for each versioned notification about a new one.
"""

from __future__ import annotations

import os
from typing import Any

from support.records import record
from support.relay import RunningRelay
from support.services import program, running_service
from support.telemetry import wait_finished
from support.waiting import wait_until

NUMBERS = range(100)
HOST = "host-1"

CONFIGURATION = """
[DEFAULT]
host = {host}
transport_url = fake://
[oslo_messaging_notifications]
transport_url = unix://{public}
"""

LISTEN = """
import signal, sys, threading
from oslo_log import log
from watcher import conf
from watcher.common import rpc, service
from watcher.decision_engine.model import model_root
from watcher.decision_engine.model.notification import nova

class Collector:
    cluster_data_model = model_root.ModelRoot()
    sync_lock = threading.Lock()

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
log.register_options(conf.CONF)
conf.CONF(sys.argv[1:], project="watcher", default_config_files=[])
log.setup(conf.CONF, "watcher")
rpc.init(conf.CONF)
topics = conf.CONF.watcher_decision_engine.notification_topics
endpoints = [nova.VersionedNotification(Collector)]
listener = service.Service.build_notification_handler(None, topics, endpoints)
listener.start()
signal.sigwait({signal.SIGTERM})
listener.stop()
listener.wait()
for identifier in sorted(Collector.cluster_data_model.get_all_instances()):
    print("instance", identifier)
"""


def created(identifier: str, **topic: str) -> bytes:
    """Return a versioned notification about a new instance."""
    flavor = {"memory_mb": 512, "vcpus": 1, "root_gb": 1, "ephemeral_gb": 0, "swap": 0}
    payload: dict[str, Any] = {
        "nova_object.version": "1.10",
        "nova_object.data": {
            "created_at": "2026-01-31T12:00:00Z",
            "display_name": identifier,
            "flavor": {"nova_object.data": flavor},
            "host": None,
            "host_name": identifier,
            "image_uuid": "image",
            "locked": False,
            "metadata": {},
            "node": None,
            "state": "active",
            "tenant_id": "project",
            "uuid": identifier,
        },
    }
    return record(
        "instance.create.end",
        message_id=identifier,
        publisher_id="nova-compute:host-1",
        payload=payload,
        timestamp="2026-01-31 12:00:00.123456",
        **topic,
    )


def test_watcher_handles_its_two_topics_once(relay: RunningRelay) -> None:
    configuration = relay.directory / "watcher.conf"
    configuration.write_text(CONFIGURATION.format(host=HOST, public=relay.public))
    log = relay.directory / "watcher.log"
    options = "-c", LISTEN, "--config-file", os.fspath(configuration)
    with running_service(log, program("python"), *options), relay.produce() as producer:
        wait_until(lambda: relay.request("groups"), "watcher listens")
        for number in NUMBERS:
            producer.sendall(created(f"{number:03} versioned", _topic="versioned_notifications"))
            producer.sendall(created(f"{number:03} without topic"))
            producer.sendall(created(f"{number:03} of vitrage", _topic="vitrage_notifications"))
        relay.wait_status(records_received=3 * len(NUMBERS))
        wait_finished(relay)
        (group,) = relay.request("groups")
        assert group["group"] == HOST
    lines = log.read_text().splitlines()
    expected = [f"{n:03} {kind}" for n in NUMBERS for kind in ("versioned", "without topic")]
    instances = [each for each in lines if each.startswith("instance ")]
    assert instances == [f"instance {each}" for each in sorted(expected)]
    received = [each for each in lines if "Event 'instance.create.end' received from" in each]
    assert len(received) == len(expected)
