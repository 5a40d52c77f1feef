# SPDX-License-Identifier: Apache-2.0
"""Nova's versioned notifications, from the samples in its sources.

A program turns each sample into nova's own objects and emits them, as nova-compute and nova-api do.
"""

from __future__ import annotations

import os

from support.relay import RunningRelay
from support.services import ENVIRONMENT, program, run_to_end

SAMPLES = ENVIRONMENT / "samples"

CONFIGURATION = """
[DEFAULT]
transport_url = fake://
log_file = {directory}/nova.log
logging_context_format_string = %(name)s %(message)s
[notifications]
notification_format = versioned
[oslo_messaging_notifications]
driver = log
driver = unix
sock_path = {public}
"""

EMIT = """
import importlib, json, pkgutil, sys
from pathlib import Path
from nova import config, context, objects, rpc
from nova.notifications import objects as notifications
from nova.notifications.objects.base import EventType, NotificationObject, NotificationPublisher
from nova.objects.base import NovaObject, NovaObjectRegistry
from nova.tests.json_ref import resolve_refs
from oslo_log import log

for each in pkgutil.iter_modules(notifications.__path__):
    importlib.import_module(f"{notifications.__name__}.{each.name}")
objects.register_all()
NovaObjectRegistry.register_notification_objects()
for each in NovaObjectRegistry.notification_classes:
    # Objects are made of samples. Their own constructors copy from objects of the database.
    each.__init__ = NotificationObject.__init__
classes = {
    each.fields["payload"]._type._obj_name: each
    for each in NovaObjectRegistry.notification_classes
    if "payload" in each.fields
}

config.parse_args(["nova", "--config-file", sys.argv[1]], configure_db=False)
log.setup(config.CONF, "nova")
rpc.init(config.CONF)
for path in sorted(Path(sys.argv[2]).glob("*.json")):
    sample = resolve_refs(json.loads(path.read_text()), path.parent)
    source, host = sample["publisher_id"].split(":")
    subject, action, phase = (sample["event_type"].split(".") + [None])[:3]
    payload = NovaObject.obj_from_primitive(sample["payload"])
    payload.populated = True
    classes[payload.obj_name()](
        priority=sample["priority"].lower(),
        event_type=EventType(object=subject, action=action, phase=phase),
        publisher=NotificationPublisher(source=source, host=host),
        payload=payload,
    ).emit(context.RequestContext("user", "project"))
"""

TOPIC = b', "_topic": "versioned_notifications"'


def emit_samples(relay: RunningRelay) -> list[bytes]:
    """Let nova send all notifications to a relay, and return the records."""
    configuration = relay.directory / "nova.conf"
    configuration.write_text(CONFIGURATION.format(directory=relay.directory, public=relay.public))
    number = len(list(SAMPLES.glob("*.json")))
    records: list[bytes] = []
    with relay.subscribe() as subscriber:
        arguments = "-c", EMIT, os.fspath(configuration), os.fspath(SAMPLES)
        run_to_end(program("python"), *arguments)
        while len(records) < number:
            records += (each for each in subscriber.lines(1) if TOPIC in each)
    return records
