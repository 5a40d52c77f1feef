# SPDX-License-Identifier: Apache-2.0
"""The packaged relay where the kernel has AppArmor: confined, and not in anything that it does.

One test after the other, as an operator would go on; each says what it needs of the one before.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from installing import NEW, OLD, apt, msgspec, package
from machine import (
    CONFIGURATION,
    INGEST,
    PUBLIC,
    SERVICE,
    connect,
    drop_in,
    record,
    relays,
    run,
    show,
    systemctl,
)

PACKAGES = "python3-notif-relay", "notif-relayd"

READERS = 12
"""Enough for them to share memory."""

CONFIG = """
[relayd]
public_allow_groups = notif-subscribers
access_rules = monitoring
[access:monitoring]
group = notif-subscribers
event_type = compute.*
"""
"""Groups are looked up by name, in whatever the host has them."""


def denied() -> list[str]:
    """What the kernel has said that the relay may not do."""
    said = run("journalctl", "--dmesg", "--no-pager", "--output=cat").stdout
    lines = (line for line in said.splitlines() if 'apparmor="DENIED"' in line)
    return [line for line in lines if 'profile="notif-relayd"' in line]


def confinement() -> str:
    return Path(f"/proc/{show('MainPID')}/attr/current").read_text().strip()


def test_installed_it_relays_and_is_confined() -> None:
    apt("install", *(package(OLD, each) for each in PACKAGES), *msgspec(OLD))
    assert relays()
    assert confinement() == "notif-relayd (enforce)"
    assert denied() == []


def test_many_get_a_large_run() -> None:
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(connect(PUBLIC)) for _ in range(READERS)]
        producer = stack.enter_context(connect(INGEST))
        run_of_records = record() * 100
        producer.sendall(run_of_records)
        for each in readers:
            assert each.makefile("rb").read(len(run_of_records)) == run_of_records
    assert "sockets cannot share memory" not in run("journalctl", "-u", SERVICE).stdout
    assert denied() == []


def test_it_reads_its_configuration_answers_and_goes_on_after_a_restart() -> None:
    CONFIGURATION.write_text(CONFIG)
    with connect(PUBLIC) as subscriber, connect(INGEST) as producer:
        systemctl("restart", SERVICE)
        systemctl("reload", SERVICE)
        sent = record()
        producer.sendall(sent)
        assert subscriber.makefile("rb").readline() == sent
        assert '"subscribers": 1' in run("relayctl", "status", "-f", "json").stdout
    assert denied() == []


def test_an_upgrade_is_confined_too() -> None:
    apt("install", *(package(NEW, each) for each in PACKAGES))
    assert relays()
    assert confinement() == "notif-relayd (enforce)"
    assert denied() == []


def test_what_it_has_no_business_with_is_denied() -> None:
    """Or the tests before would find nothing, whatever there was."""
    drop_in("ExecStart=", "ExecStart=/usr/bin/notif-relayd --config-file /etc/hostname")
    run("systemctl", "restart", SERVICE)
    assert any('name="/etc/hostname"' in line for line in denied())
