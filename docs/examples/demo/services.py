# SPDX-License-Identifier: Apache-2.0
"""Two services that emit notifications through oslo.messaging, as OpenStack services do.

The services do not refer to the relay; only their configuration does. The log driver writes the
notifications to a logger, and the file that `log_config_append` names attaches the relay's handler
to this logger.

Usage: services.py compute|storage --config-file FILE
"""

import sys
import uuid
from collections.abc import Iterator
from typing import Any

import oslo_messaging
from oslo_config import cfg
from oslo_log import log

HOST = "demo-host"
PROJECT = "8d7a4c0e2b9f4f1c9d6e5a3b7c1f0e42"

Notification = tuple[str, str, dict[str, Any]]
"""Publisher ID, event type and payload."""


def compute() -> Iterator[Notification]:
    """Yield the notifications of nova-compute about some instances."""
    publisher = f"compute.{HOST}"
    for number in range(60):
        instance = {
            "instance_id": str(uuid.uuid4()),
            "tenant_id": PROJECT,
            "display_name": f"web-{number}",
            "host": HOST,
            "instance_type": "m1.small",
            "memory_mb": 2048,
            "vcpus": 1,
            "disk_gb": 20,
        }
        yield publisher, "compute.instance.create.start", instance | {"state": "building"}
        addresses = [{"address": f"192.0.2.{number + 10}", "version": 4, "label": "private"}]
        done = {"state": "active", "fixed_ips": addresses, "message": "Success"}
        yield publisher, "compute.instance.create.end", instance | done


def storage() -> Iterator[Notification]:
    """Yield the notifications of cinder-volume and neutron-server about some volumes and ports."""
    for number in range(60):
        volume = {
            "volume_id": str(uuid.uuid4()),
            "tenant_id": PROJECT,
            "display_name": f"data-{number}",
            "host": f"{HOST}@lvm#pool",
            "size": 10,
        }
        port = {
            "id": str(uuid.uuid4()),
            "project_id": PROJECT,
            "binding:host_id": HOST,
            "mac_address": f"fa:16:3e:00:00:{number:02x}",
            "status": "ACTIVE",
        }
        yield f"volume.{HOST}", "volume.create.end", volume | {"status": "available"}
        chap = {
            "auth_method": "CHAP",
            "auth_username": f"user-{number}",
            "auth_password": f"the secret of volume {number}",
        }
        yield f"volume.{HOST}", "volume.attach.end", volume | {"connection_info": chap}
        yield f"network.{HOST}", "port.create.end", {"port": port}


def main(service: str, *arguments: str) -> None:
    """Set up logging as a service does, emit all notifications, and print their number."""
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf(arguments, project="demo")
    log.setup(conf, "demo")

    transport = oslo_messaging.get_notification_transport(conf)
    notifier = oslo_messaging.Notifier(transport, driver="log")

    emitted = 0
    for publisher, event_type, payload in {"compute": compute, "storage": storage}[service]():
        notifier.prepare(publisher_id=publisher).info({}, event_type, payload)
        emitted += 1
    sys.stdout.write(f"{emitted}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
