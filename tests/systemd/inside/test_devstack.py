# SPDX-License-Identifier: Apache-2.0
"""The plugin for DevStack: what each of its phases makes of a host."""

import grp
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from environments import (
    CHECKOUT,
    VARIABLES,
    copy_checkout,
    make_environment,
    requirements_at_hand,
)
from machine import INGEST_UNIT, PUBLIC, PUBLIC_UNIT, connect, run, show, states, systemctl
from oslo_config import cfg

STACK = Path("/opt/stack")
PLUGIN, VENV = STACK / "notif-relayd", STACK / "data/venv"
GROUPS = ("notif-producers", "notif-subscribers", "notif-relayd")
DEADLINE = 60

NOVA, CELL, KEYSTONE, NEUTRON, CINDER = (
    Path("/etc", name)
    for name in (
        *("nova/nova.conf", "nova/nova_cell1.conf", "keystone/keystone.conf"),
        *("neutron/neutron.conf", "cinder/cinder.conf"),
    )
)
TOLD_ELSEWHERE = """[DEFAULT]
driver = of something else
[oslo_messaging_notifications]
transport_url = rabbit://
driver = messagingv2
[other]
driver = unix
"""
TOLD_NOWHERE = "[DEFAULT]\ndebug = True\n"

NOTIFY = """
import sys
import oslo_messaging
from oslo_config import cfg
conf = cfg.ConfigOpts()
conf(sys.argv[1:])
transport = oslo_messaging.get_notification_transport(conf, url="fake://")
oslo_messaging.Notifier(transport, sys.argv[-1]).info({}, "test.devstack", {})
"""


def devstack(*phase: str, **variables: str) -> None:
    """Let DevStack come to this phase."""
    done = subprocess.run(
        ["/bin/bash", CHECKOUT / "tests/systemd/inside/devstack.sh", PLUGIN, *phase],
        env=os.environ | VARIABLES | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def stack() -> None:
    """All of stack.sh. neutron's configuration is written later than that of the others."""
    for path, text in ((NOVA, TOLD_ELSEWHERE), (CELL, TOLD_NOWHERE), (KEYSTONE, TOLD_NOWHERE)):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    devstack("stack", "pre-install")
    devstack("stack", "install")
    NEUTRON.parent.mkdir(exist_ok=True)
    NEUTRON.write_text(TOLD_NOWHERE)
    devstack("stack", "post-config")
    devstack("stack", "extra")


def configurations() -> dict[Path, str]:
    return {path: path.read_text() for path in (NOVA, CELL, KEYSTONE, NEUTRON)}


def notifies(configuration: Path) -> str:
    """The publisher that is heard when a service with this configuration notifies."""
    environment = [f"{name}={value}" for name, value in VARIABLES.items()]
    with connect(PUBLIC) as subscriber:
        service = [VENV / "bin/python", "-c", NOTIFY, "--config-file", configuration]
        done = run("env", *environment, *map(str, service), user="stack")
        assert done.returncode == 0, done.stderr
        return subscriber.makefile().readline()


def drivers(configuration: Path) -> list[str]:
    """As a service reads them."""
    conf = cfg.ConfigOpts()
    conf.register_opt(cfg.MultiStrOpt("driver", default=[]), "oslo_messaging_notifications")
    conf(["--config-file", str(configuration)])
    return list(conf.oslo_messaging_notifications.driver)


def members(group: str) -> list[str]:
    return grp.getgrnam(group).gr_mem


@pytest.fixture(scope="module")
def host(users: None) -> Iterator[None]:
    """A host with an installed DevStack and the plugin's repository, but not stacked yet."""
    assert run("systemd-sysusers", "--inline", "u stack -").returncode == 0
    copy_checkout(PLUGIN)
    make_environment(VENV)
    with requirements_at_hand():
        yield
    for path in (NOVA, CELL, KEYSTONE, NEUTRON):
        shutil.rmtree(path.parent, ignore_errors=True)
    shutil.rmtree(STACK)
    assert run("make", "-C", str(CHECKOUT), "install").returncode == 0


@pytest.fixture(scope="module")
def stacked(host: None) -> tuple[str, str, str]:
    """What systemd did for the relay when stack.sh had run once."""
    systemctl("disable", "--now", PUBLIC_UNIT)
    stack()
    return states()


def test_disabled_plugin_changes_nothing(host: None) -> None:
    NOVA.parent.mkdir(exist_ok=True)
    NOVA.write_text(TOLD_ELSEWHERE)
    for phase in (("stack", "install"), ("stack", "post-config"), ("unstack",), ("clean",)):
        devstack(*phase, DISABLED_SERVICES="notif-relayd")
    assert NOVA.read_text() == TOLD_ELSEWHERE
    assert states() == ("inactive", "active", "active")


def test_stack_relays_notifications_beside_other_drivers(
    stacked: tuple[str, str, str],
) -> None:
    assert stacked == ("inactive", "active", "active")
    assert {show("UnitFileState", unit) for unit in (PUBLIC_UNIT, INGEST_UNIT)} == {"enabled"}
    assert f"{VENV}/bin/notif-relayd" in show("ExecStart")
    assert all("stack" in members(group) for group in GROUPS)
    assert drivers(NOVA) == ["messagingv2", "unix"]
    assert drivers(CELL) == drivers(KEYSTONE) == drivers(NEUTRON) == ["unix"]
    assert not CINDER.exists()
    for configuration in (NOVA, NEUTRON):
        assert f'"publisher_id": "{configuration}"' in notifies(configuration)


def test_correct_configuration_is_not_rewritten(stacked: tuple[str, str, str]) -> None:
    before = configurations()
    written = [path.stat().st_mtime_ns for path in before]
    devstack("stack", "post-config")
    assert [path.stat().st_mtime_ns for path in before] == written
    stack()
    assert configurations() == before


def test_unstack_stops_and_clean_removes_the_relay(
    stacked: tuple[str, str, str],
) -> None:
    devstack("unstack")
    assert states() == ("inactive", "inactive", "inactive")
    assert {show("UnitFileState", unit) for unit in (PUBLIC_UNIT, INGEST_UNIT)} == {"disabled"}
    devstack("clean")
    assert drivers(NOVA) == ["messagingv2"]
    assert drivers(CELL) == drivers(KEYSTONE) == drivers(NEUTRON) == []
    assert set(NOVA.read_text().splitlines()) == set(TOLD_ELSEWHERE.splitlines())
    assert "sock_path" not in "".join(configurations().values())
    assert show("LoadState") == show("LoadState", PUBLIC_UNIT) == "not-found"
    assert not any("stack" in members(group) for group in GROUPS)
    assert not (VENV / "bin/notif-relayd").exists()
