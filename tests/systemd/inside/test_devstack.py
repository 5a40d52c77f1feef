# SPDX-License-Identifier: Apache-2.0
"""The effects of each phase of the DevStack plugin on a host."""

import grp
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from support import doc_blocks
from support.container import (
    INGEST_UNIT,
    PUBLIC,
    PUBLIC_UNIT,
    access,
    connect,
    run,
    show,
    states,
    systemctl,
)
from support.environments import (
    CHECKOUT,
    VARIABLES,
    copy_checkout,
    make_environment,
    requirements_at_hand,
)

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
WITH_DRIVER = """[DEFAULT]
driver = of something else
[oslo_messaging_notifications]
transport_url = rabbit://
driver = messagingv2
[other]
driver = unix
"""
TARGET = "rabbit://relay:s3cr3t@127.0.0.1:9/"
BRIDGE_UNIT = "notif-relayd-bridge@devstack.service"
BRIDGE_CONFIGURATION = Path("/etc/notif-relayd/bridge/devstack.conf")
WITHOUT_DRIVER = "[DEFAULT]\ndebug = True\n"

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
    """Run a phase of DevStack."""
    bash(CHECKOUT / "tests/systemd/inside/devstack.sh", PLUGIN, *phase, **variables)


def bash(*arguments: str | Path, **variables: str) -> None:
    """Run bash in an environment in which pip uses the installed packages."""
    done = subprocess.run(
        ["/bin/bash", *arguments],
        env=os.environ | VARIABLES | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def stack(**variables: str) -> None:
    """Run all phases of stack.sh; neutron's configuration is written after the others."""
    for path, text in ((NOVA, WITH_DRIVER), (CELL, WITHOUT_DRIVER), (KEYSTONE, WITHOUT_DRIVER)):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    devstack("stack", "pre-install")
    devstack("stack", "install", **variables)
    NEUTRON.parent.mkdir(exist_ok=True)
    NEUTRON.write_text(WITHOUT_DRIVER)
    devstack("stack", "post-config")
    devstack("stack", "extra")


def configurations() -> dict[Path, str]:
    return {path: path.read_text() for path in (NOVA, CELL, KEYSTONE, NEUTRON)}


def notify(configuration: Path) -> str:
    """Send a notification with this configuration; return the record that a subscriber gets."""
    environment = [f"{name}={value}" for name, value in VARIABLES.items()]
    with connect(PUBLIC) as subscriber:
        service = [VENV / "bin/python", "-c", NOTIFY, "--config-file", configuration]
        done = run("env", *environment, *map(str, service), user="stack")
        assert done.returncode == 0, done.stderr
        return subscriber.makefile().readline()


def drivers(configuration: Path) -> list[str]:
    """Return the drivers that a service reads from this configuration."""
    conf = cfg.ConfigOpts()
    conf.register_opt(cfg.MultiStrOpt("driver", default=[]), "oslo_messaging_notifications")
    conf(["--config-file", str(configuration)])
    return list(conf.oslo_messaging_notifications.driver)


def members(group: str) -> list[str]:
    return grp.getgrnam(group).gr_mem


@pytest.fixture(scope="module")
def host(users: None) -> Iterator[None]:
    """Prepare a host with DevStack and the plugin's repository before stack.sh runs."""
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
    """Run stack.sh once; return the states of the relay's units."""
    systemctl("disable", "--now", PUBLIC_UNIT)
    stack()
    return states()


def test_disabled_plugin_changes_nothing(host: None) -> None:
    NOVA.parent.mkdir(exist_ok=True)
    NOVA.write_text(WITH_DRIVER)
    for phase in (("stack", "install"), ("stack", "post-config"), ("unstack",), ("clean",)):
        devstack(*phase, DISABLED_SERVICES="notif-relayd")
    assert NOVA.read_text() == WITH_DRIVER
    assert states() == ("inactive", "active", "active")


def test_documented_upgrade_restarts_the_relay(stacked: tuple[str, str, str]) -> None:
    (upgrade,) = doc_blocks.upgrading("DevStack")
    _, *commands = upgrade.lines  # without a repository to pull from
    with connect(PUBLIC):
        before = show("MainPID")
        script = "\n".join(["set -e", 'sudo() { "$@"; }', *commands])
        bash("-c", script, CC="/bin/false", CXX="/bin/false")  # without the compiled part
        assert show("MainPID") not in (before, "0")


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
        assert f'"publisher_id": "{configuration}"' in notify(configuration)


def test_second_stack_adds_a_bridge_and_rewrites_nothing(stacked: tuple[str, str, str]) -> None:
    before = configurations()
    written = [path.stat().st_mtime_ns for path in before]
    devstack("stack", "post-config")
    assert [path.stat().st_mtime_ns for path in before] == written
    stack(NOTIF_RELAYD_BRIDGE_TARGET=TARGET, NOTIF_RELAYD_BRIDGE_OPTIONS="priority = ERROR")
    assert configurations() == before
    assert access(os.fspath(BRIDGE_CONFIGURATION)) == ("0640", "root", "notif-relayd-bridge")
    configured = BRIDGE_CONFIGURATION.read_text()
    assert configured == f"[bridge]\ntarget = {TARGET}\npriority = ERROR\n"
    assert show("ActiveState", BRIDGE_UNIT) == "active"


def test_unstack_stops_and_clean_removes_the_relay(
    stacked: tuple[str, str, str],
) -> None:
    devstack("unstack")
    assert show("ActiveState", BRIDGE_UNIT) == "inactive"
    assert states() == ("inactive", "inactive", "inactive")
    assert {show("UnitFileState", unit) for unit in (PUBLIC_UNIT, INGEST_UNIT)} == {"disabled"}
    devstack("clean")
    assert drivers(NOVA) == ["messagingv2"]
    assert drivers(CELL) == drivers(KEYSTONE) == drivers(NEUTRON) == []
    assert set(NOVA.read_text().splitlines()) == set(WITH_DRIVER.splitlines())
    assert "sock_path" not in "".join(configurations().values())
    assert show("LoadState") == show("LoadState", PUBLIC_UNIT) == "not-found"
    assert not any("stack" in members(group) for group in GROUPS)
    assert not (VENV / "bin/notif-relayd").exists()
