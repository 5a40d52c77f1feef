# SPDX-License-Identifier: Apache-2.0
"""The record for all relays: a notification in the style of nova, of a given size.

It is valid JSON, because the relay validates records, with the keys in the order of
oslo.messaging's log driver. Its payload contains digits for the time of writing, which the load
generator replaces.
"""

import json

STAMP = "0" * 20
_TEXT = (
    "Build of instance 178b0921-8f85-4257-88b6-2e743b5a975c: volume attached, port bound, image "
    "http://controller:9292/images/155d900f-4e14-4e4c-a73d-069cbf4541e6 fetched; "
)


def record(size: int) -> bytes:
    """Return a notification of this size in bytes, including the newline."""
    notification = {
        "message_id": "8b5c1f0e-6a0f-4d6e-9d53-1f5a3f0d2c11",
        "publisher_id": "nova-compute:compute-1.example.org",
        "event_type": "compute.instance.update",
        "priority": "INFO",
        "payload": {
            "tenant_id": "6f70656e737461636b20342065766572",
            "instance_id": "178b0921-8f85-4257-88b6-2e743b5a975c",
            "display_name": "web-1",
            "instance_type": "m1.small",
            "memory_mb": 2048,
            "vcpus": 2,
            "os_type": None,
            "state": "active",
            "fixed_ips": [{"address": "192.168.1.3", "version": 4, "floating_ips": []}],
            "written_at": STAMP,
            "message": "",
        },
        "timestamp": "2026-01-31 12:00:00.123456",
    }
    padding = size - 1 - len(json.dumps(notification))
    if padding < 0:
        raise ValueError(f"a notification has at least {size - padding} bytes")
    message = (_TEXT * (padding // len(_TEXT) + 1))[:padding]
    notification["payload"]["message"] = message  # type: ignore[index]
    return json.dumps(notification).encode() + b"\n"
