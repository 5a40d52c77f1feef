# SPDX-License-Identifier: Apache-2.0
"""Programs of services that notify with ``driver = unix``, and their configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.private_socket import ProducerConnection
from support.scripts import Script, Scripts

PATCH = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
"""


IMPORT = """
import json, logging, multiprocessing, os, signal, sys, threading
from oslo_config import cfg
import oslo_messaging
from oslo_messaging import get_notification_transport, Notifier
"""


SET_UP = """
from notif_relay.messaging.driver import UnixDriver
from notif_relay.messaging.options import ingest_path
from notif_relay.messaging.producer import Producer

def producer():
    return Producer.shared(ingest_path(CONF))

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s")
CONF = cfg.CONF
CONF([], project="nova", default_config_files=[sys.argv[1]])
transport = get_notification_transport(CONF)
notifier = Notifier(transport, "nova-compute:host-1")
"""


SERVICE = IMPORT + SET_UP


def write_configuration(directory: Path, *lines: str, drivers: tuple[str, ...] = ("unix",)) -> Path:
    """Write a service's configuration file; return its path."""
    path = directory / "service.conf"
    path.write_text(
        "\n".join(
            [
                "[oslo_messaging_notifications]",
                "transport_url = fake://",
                *(f"driver = {driver}" for driver in drivers),
                *lines,
            ]
        )
    )
    return path


def run_service(scripts: Scripts, program: str, *arguments: object) -> Script:
    """Start a service's program without warnings."""
    return scripts.run("-W", "ignore", "-c", program, *arguments)


def read_notifications(incoming: ProducerConnection) -> list[dict[str, Any]]:
    """Read the connection to its end; return the notifications."""
    return [json.loads(line) for line in incoming.read_to_end().splitlines()]
