# SPDX-License-Identifier: Apache-2.0
"""The examples of filters by payload in the documentation, each with a process of its own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from support.doc_blocks import rst
from support.records import record
from support.relay import RunningRelay, Subscriber
from support.relayctl import RELAYCTL
from support.scripts import Scripts
from support.waiting import TIMEOUT, wait_until

PROJECT = "8d7a4c0e2b9f4f1c9d6e5a3b7c1f0e42"
SUBNET = "aad30b7b-ab7b-441b-843f-8cef149ef4a1"


def instance(**changed: object) -> dict[str, Any]:
    """Return a payload of nova-compute."""
    return {"tenant_id": PROJECT, "state": "error", "old_state": "building"} | changed


def versioned(**changed: object) -> dict[str, Any]:
    """Return a payload of nova's versioned notifications."""
    data = {"host": "cmp-1", "state": "error", "tenant_id": PROJECT} | changed
    return {"nova_object.name": "InstanceActionPayload", "nova_object.data": data}


def volume(**changed: object) -> dict[str, Any]:
    """Return a payload of cinder-volume."""
    return {"tenant_id": PROJECT, "host": "storage-1@lvm#pool", "size": 100} | changed


def port(*subnets: str, **changed: object) -> dict[str, Any]:
    """Return a payload of neutron."""
    addresses = [{"subnet_id": each, "ip_address": "192.0.2.7"} for each in subnets]
    return {"port": {"id": "p-1", "device_owner": "compute:nova", "fixed_ips": addresses} | changed}


OTHERS = [
    record("compute.instance.update", payload=instance(state="active")),
    record("compute.instance.update", payload=instance(tenant_id="other")),
    record("instance.update", payload=versioned(host="net-1")),
    record("instance.update", payload=versioned(state="active")),
    record("volume.create.end", payload=volume(size=99)),
    record("volume.create.end", payload=volume(host="storage-10@lvm#pool")),
    record("port.create.end", payload=port("other", id="p-2")),
    record("port.create.end", payload=port(SUBNET, id="p-3", device_owner="network:dhcp")),
]
NOVA = record("compute.instance.update", "ERROR", payload=instance())
VERSIONED = record("instance.update", "ERROR", payload=versioned())
CINDER = record("volume.create.end", payload=volume())
NEUTRON = record("port.create.end", payload=port("other", SUBNET))


@pytest.fixture
def scripts() -> Iterator[Scripts]:
    with Scripts() as scripts:
        yield scripts


def test_examples_select_their_notifications(relay: RunningRelay, scripts: Scripts) -> None:
    nova, request, cinder, neutron = rst("howto/consumer.rst", "Filter by payload")
    commands = [shlex.split(each.text.replace("\\\n", "")) for each in (nova, cinder)]
    options = [
        "--runtime-dir",
        str(relay.directory),
        "-n",
        "1",
        "-o",
        "json",
        "--for",
        str(TIMEOUT),
    ]
    tails = [scripts.run(RELAYCTL, *command[1:], *options) for command in commands]
    begin = f"subscribe(\n    {str(relay.public)!r},\n    timeout={TIMEOUT},\n"
    code = neutron.text.replace("subscribe(\n", begin)
    library = scripts.run("-u", "-c", code)
    with Subscriber(relay.public) as plain, relay.produce() as producer:
        plain.socket.sendall(json.dumps(json.loads(request.text)).encode() + b"\n")
        wait_until(
            lambda: [bool(each["bytes"]) for each in relay.request("subscribers")] == 4 * [True],
            "all filters are in force",
        )
        producer.sendall(b"".join([*OTHERS, NOVA, VERSIONED, CINDER, NEUTRON]))
        assert [each.line() + "\n" for each in tails] == [NOVA.decode(), CINDER.decode()]
        assert library.line() == "port.create.end p-1"
        assert plain.notification()["event_type"] == "notif_relayd.subscribed"
        assert plain.line() == VERSIONED
