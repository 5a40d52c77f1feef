# SPDX-License-Identifier: Apache-2.0
"""Notifications of real services' code from PyPI: three WSGI filters, and osprofiler as a reader.

Each filter runs in a process of its own, with a configuration file and a minimal application. It
notifies by each of three paths. osprofiler collects traces by listening to notifications.
"""

from __future__ import annotations

import json

import pytest

from support.messaging import Endpoint, running_listener, transport_to
from support.relay import RunningRelay
from support.scripts import Scripts
from support.waiting import wait_until

PATHS = {
    "the log driver and the handler": ("log", "fake://"),
    "driver = unix": ("unix", "fake://"),
    "the transport": ("messagingv2", "unix://{public}"),
}
"""Driver and transport URL."""

CONFIGURATION = """
[oslo_messaging_notifications]
driver = {driver}
transport_url = {url}
sock_path = {public}
"""

SERVICE = """
import logging
import sys
import webob
from oslo_config import cfg
from notif_relay import RelayHandler

configuration, ingest, driver, url = sys.argv[1:]
cfg.CONF(["--config-file", configuration], project="service")
logger = logging.getLogger("oslo.messaging.notification")
logger.setLevel(logging.INFO)
logger.addHandler(RelayHandler(ingest))

def application(environ, start_response):
    start_response("201 Created", [("Content-Type", "text/plain")])
    return [b"made"]

{filter}
request = webob.Request.blank("/v1/AUTH_account/container/object", method="PUT", body=b"x")
request.headers["X-Auth-Token"] = request.headers["X-Service-Token"] = "hidden"
request.headers["X-User-Id"] = "alice"
assert request.get_response(application).body == b"made"
"""

FILTERS = {
    "oslo.messaging's RequestNotifier": (
        """
from oslo_messaging.notify.middleware import RequestNotifier
application = RequestNotifier.factory({}, service_name="object-store")(application)
""",
        ["http.request", "http.response"],
    ),
    "keystonemiddleware's audit filter": (
        """
from keystonemiddleware import audit
application = audit.filter_factory({}, service_name="object-store")(application)
""",
        ["audit.http.request", "audit.http.response"],
    ),
    "ceilometermiddleware for swift": (
        """
from ceilometermiddleware import swift
application = swift.filter_factory(
    {}, extra_config_files=configuration, driver=driver, url=url
)(application)
""",
        ["objectstore.http.request"],
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FILTERS)
def test_service_notifications_reach_all_readers(
    scripts: Scripts, relay: RunningRelay, name: str, path: str
) -> None:
    code, event_types = FILTERS[name]
    configuration = relay.directory / "service.conf"
    driver, url = (each.format(public=relay.public) for each in PATHS[path])
    configuration.write_text(CONFIGURATION.format(driver=driver, url=url, public=relay.public))
    consumer = Endpoint("info")
    with (
        relay.subscribe() as subscriber,
        transport_to(relay.public) as transport,
        running_listener(transport, consumer, batch_size=len(event_types)),
    ):
        script = scripts.run(
            *("-W", "ignore", "-c", SERVICE.replace("{filter}", code)),
            *(configuration, relay.ingest, driver, url),
        )
        assert script.finish() == ""
        read = [json.loads(line) for line in subscriber.lines(len(event_types))]
        notified = consumer.next_batch()
    assert [each["event_type"] for each in read] == event_types
    assert [each.event_type for each in notified] == event_types
    for fields, each in zip(read, notified, strict=True):
        assert each.payload == fields["payload"]
        assert each.metadata["message_id"] == fields["message_id"]
        assert "_topic" not in fields
        assert "hidden" not in json.dumps(fields)
        assert "object" in json.dumps(each.payload)
    assert relay.status()["records_rejected"] == 0


TRACE = """
import json
import sys
import threading
from oslo_config import cfg
from osprofiler import notifier, profiler
from osprofiler.drivers.base import get_driver

cfg.CONF([], project="service", default_config_files=[])
driver = get_driver(
    "messaging://", project="compute", service="api", host="host-1",
    transport_url="unix://" + sys.argv[1], idle_timeout=4,
)
notifier.set(driver.notify)

def work():
    profiler.init("key", base_id="11111111-2222-3333-4444-555555555555")
    sys.stdin.readline()
    with profiler.Trace("request", info={"path": "/servers"}):
        with profiler.Trace("db"):
            pass

worker = threading.Thread(target=work)
worker.start()
report = driver.get_report("11111111-2222-3333-4444-555555555555")
worker.join()
print(json.dumps(report))
"""


def test_osprofiler_collects_its_own_trace(scripts: Scripts, relay: RunningRelay) -> None:
    script = scripts.run("-W", "ignore", "-c", TRACE, relay.public)
    wait_until(lambda: relay.status()["bytes_delivered"], "osprofiler has subscribed")
    script.proceed()
    report = json.loads(script.finish())
    (request,) = report["children"]
    (db,) = request["children"]
    assert (request["info"]["name"], db["info"]["name"]) == ("request", "db")
    assert request["info"]["meta.raw_payload.request-start"]["info"]["path"] == "/servers"
