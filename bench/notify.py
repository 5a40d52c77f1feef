# SPDX-License-Identifier: Apache-2.0
"""Cost of ``Notifier.info()`` with ``driver = unix``, as a ratio to ``driver = log``.

As in ``emit.py``, each round times both drivers directly after each other with the same payload,
and the median of the ratios within a round is compared with the limit. The log driver logs to a
FileHandler. A process that only reads and counts replaces the relay.

The measure is processor time in user and kernel mode, because the reader may share the processor
with the benchmark. It includes waking the reader.

The payload has 30 keys, like nova's notifications about instances. The case "with secrets" has two
keys with names of secrets, and a third secret in a command line. The case "versioned" has the size
and nesting of nova's versioned notification about an instance with two ports and two volumes.

Exit status 1: a ratio exceeds its limit, or a record was dropped, which makes the driver look
cheap.
"""

import argparse
import logging
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import oslo_messaging
from oslo_config import cfg

from notif_relay.messaging.options import GROUP, list_opts

FORK = multiprocessing.get_context("fork")

PAYLOAD: dict[str, Any] = {
    "tenant_id": "6f70656e737461636b20342065766572",
    "user_id": "fake",
    "instance_id": "178b0921-8f85-4257-88b6-2e743b5a975c",
    "display_name": "some-server",
    "reservation_id": "r-ypu3gf6q",
    "hostname": "some-server",
    "instance_type": "m1.small",
    "instance_type_id": 5,
    "instance_flavor_id": "a22d5517-147c-4147-a0d1-e698df5cd4e3",
    "architecture": "x86_64",
    "memory_mb": 512,
    "disk_gb": 1,
    "vcpus": 1,
    "root_gb": 1,
    "ephemeral_gb": 0,
    "host": "compute-1.example.org",
    "node": "compute-1.example.org",
    "availability_zone": "nova",
    "cell_name": "",
    "created_at": "2024-01-01 00:00:00+00:00",
    "launched_at": "2024-01-01T00:00:07.000000",
    "terminated_at": "",
    "deleted_at": "",
    "state": "active",
    "state_description": "",
    "os_type": None,
    "kernel_id": "",
    "image_ref_url": "http://controller:9292/images/155d900f-4e14-4e4c-a73d-069cbf4541e6",
    "image_meta": {
        "min_disk": "1",
        "min_ram": "0",
        "container_format": "raw",
        "disk_format": "raw",
        "base_image_ref": "155d900f-4e14-4e4c-a73d-069cbf4541e6",
    },
    "fixed_ips": [
        {
            "address": "192.168.1.3",
            "floating_ips": [],
            "label": "private",
            "meta": {},
            "type": "fixed",
            "version": 4,
            "vif_mac": "fa:16:3e:4c:2c:30",
        }
    ],
}

SECRETS = {
    "admin_password": "s3cr3t",
    "display_name": "set-up --password s3cr3t --force",
    "image_meta": {"min_disk": "1", "container_format": "raw", "auth_token": "s3cr3t"},
}


def versioned(data: dict[str, Any]) -> dict[str, Any]:
    """Return an object as it stands in a versioned notification."""
    return {
        "nova_object.name": "SomePayload",
        "nova_object.namespace": "nova",
        "nova_object.version": "1.0",
        "nova_object.data": data,
    }


PART = versioned({key: PAYLOAD[key] for key in list(PAYLOAD)[:8]})

VERSIONED = versioned(
    PAYLOAD
    | {"flavor": PART, "state_update": PART, "audit_period": PART}
    | {"ip_addresses": [PART] * 2, "block_devices": [PART] * 2}
)

CASES = {
    "without secrets": (PAYLOAD, 1 / 6),
    "with secrets": (PAYLOAD | SECRETS, 1.0),
    "versioned": (VERSIONED, 1 / 6),
}
"""Payload, and maximum ratio to the time of the log driver."""


def count_records(listener: socket.socket, result: Connection) -> None:
    """Replace the relay: read from one producer and send the number of its lines as the result."""
    connection, _ = listener.accept()
    lines = 0
    while data := connection.recv(1 << 20):
        lines += data.count(b"\n")
    result.send(lines)


def timed(notifier: oslo_messaging.Notifier, payload: dict[str, Any], calls: int) -> float:
    """Return the processor time of one call, in seconds."""
    started = time.process_time()
    for _ in range(calls):
        notifier.info({}, "compute.instance.update", payload)
    return (time.process_time() - started) / calls


def measure(
    log: oslo_messaging.Notifier, unix: oslo_messaging.Notifier, rounds: int, calls: int
) -> bool:
    """Print a line for each case; return whether all are within their limits."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, (payload, _) in CASES.items():
            times[name].append((timed(log, payload, calls), timed(unix, payload, calls)))
    good = True
    print(f"{rounds} rounds of {calls} notifications")
    print(f"{'':17}{'log, µs':>9}{'unix, µs':>9}{'ratio':>8}{'min':>8}{'max':>8}{'limit':>8}")
    for name, pairs in times.items():
        limit = CASES[name][1]
        ratios = [unix_time / log_time for log_time, unix_time in pairs]
        ratio = statistics.median(ratios)
        good &= ratio <= limit
        log_time, unix_time = (statistics.median(each) * 1e6 for each in zip(*pairs, strict=True))
        print(
            f"{name:17}{log_time:9.1f}{unix_time:9.1f}{ratio:8.3f}"
            f"{min(ratios):8.3f}{max(ratios):8.3f}{limit:8.3f}"
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of driver = unix against driver = log.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=1000, help="notifications per case and round")
    parser.add_argument(
        "--directory", default="/var/tmp", help="directory for the FileHandler; not on a tmpfs"
    )
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        result, writer = FORK.Pipe(duplex=False)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{directory}/ingest.sock")
            listener.listen()
            FORK.Process(target=count_records, args=(listener, writer), daemon=True).start()

        logger = logging.getLogger("oslo.messaging.notification")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        file = logging.FileHandler(Path(directory, "notifications.log"))
        logger.addHandler(file)

        conf = cfg.ConfigOpts()
        conf([], project="bench", default_config_files=[])
        transport = oslo_messaging.get_notification_transport(conf, url="fake://")
        log = oslo_messaging.Notifier(transport, "compute.host-1", driver="log")
        conf.register_opts(list_opts()[0][1], group=GROUP)
        conf.set_override("sock_path", f"{directory}/notifications.sock", group=GROUP)
        unix = oslo_messaging.Notifier(transport, "compute.host-1", driver="unix")

        good = measure(log, unix, options.rounds, options.calls)
        del unix  # closes the connection
        expected = options.rounds * options.calls * len(CASES)
        delivered = result.recv()
        file.close()

    if delivered != expected:
        print(f"{expected - delivered} of {expected} records were dropped: the ratios are invalid")
    return int(not good or delivered != expected)


if __name__ == "__main__":
    sys.exit(main())
