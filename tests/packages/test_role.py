# SPDX-License-Identifier: Apache-2.0
"""Run the playbook of the Ansible page on a Debian system, first with packages, then with pip.

The packages come from a local archive. The tests run in this order; each continues with the state
that the previous one left.
"""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import doc_blocks
from support.container import (
    CONFIGURATION,
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
from support.debian_packages import NEW, shell
from support.environments import (
    CHECKOUT,
    VARIABLES,
    copy_checkout,
    make_environment,
    requirements_at_hand,
)

ARCHIVE, WHEELS = Path("/run/archive"), Path("/run/wheels")
VENV, NOVA = Path("/opt/relay"), Path("/opt/nova")
NOVA_CONF, UNIT = Path("/etc/nova/nova.conf"), Path("/etc/systemd/system/nova-compute.service")
DEADLINE = 100

NOVA_COMPUTE = """
import signal
import oslo_messaging
from oslo_config import cfg
conf = cfg.ConfigOpts()
conf(["--config-file", "/etc/nova/nova.conf"])
transport = oslo_messaging.get_notification_transport(conf, url="fake://")
oslo_messaging.Notifier(transport, "nova-compute").info({}, "compute.started", {})
signal.pause()
"""

PASSWORD = "s3cr3t-pa55word"
BRIDGE_UNIT = "notif-relayd-bridge@region-1.service"
BRIDGE_CONFIGURATION = Path("/etc/notif-relayd/bridge/region-1.conf")

WITH_PACKAGES: dict[str, object] = {"notif_relayd_install": "package"}
WITH_PIP: dict[str, object] = {
    "notif_relayd_install": "pip",
    "notif_relayd_packages": [],  # The archive has no compiler, and none is needed.
    "notif_relayd_venv": str(VENV),
    "notif_relayd_service_venvs": [str(NOVA)],
}


def bridges(target: str) -> dict[str, object]:
    """Return the variables for a relay of nova's own and a bridge from it to a broker."""
    source = "unix:///run/notif-relayd/nova/notifications.sock"
    return {
        "notif_relayd_instances": {"nova": {"relayd": {"ring_size": 1048576}}},
        "notif_relayd_bridges": {"region-1": {"bridge": {"source": source, "target": target}}},
    }


AWAY = bridges(f"rabbit://relay:{PASSWORD}@127.0.0.1:9/")
"""The broker is not available."""


def play(variables: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Run the playbook on this host with these variables, and print everything that it can."""
    here = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_become": False,  # There is no sudo.
    }
    command: list[str | Path] = [
        *("ansible-playbook", "-vvv", "--diff", "-i", "compute,"),
        *("-e", json.dumps(here | variables), CHECKOUT / "packaging/ansible/relay.yml"),
    ]
    settings = {
        "ANSIBLE_HOME": "/run/ansible",
        "ANSIBLE_NOCOLOR": "yes",
        "LC_ALL": "C.UTF-8",
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if variables["notif_relayd_install"] == "pip":
        # Debian's packages lack the metadata of some requirements, such as tzdata.
        environment |= VARIABLES | {"PIP_NO_DEPS": "yes"}
    done = subprocess.run(
        command,
        env=environment | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert PASSWORD not in done.stdout + done.stderr
    return done


def changed(done: subprocess.CompletedProcess[str]) -> int:
    """Check that no task failed; return the number of tasks that changed something."""
    assert done.returncode == 0, done.stdout + done.stderr
    (count,) = re.findall(r"changed=(\d+)", done.stdout)
    return int(count)


def make_archive() -> None:
    """Make a Debian archive of the packages and configure it as apt's only source."""
    ARCHIVE.mkdir()
    paragraphs = []
    for package in NEW.glob("*.deb"):
        (ARCHIVE / package.name).symlink_to(package)
        control = run("dpkg-deb", "--field", str(package)).stdout
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        size = package.stat().st_size
        paragraphs.append(f"{control}Filename: ./{package.name}\nSize: {size}\nSHA256: {digest}\n")
    (ARCHIVE / "Packages").write_text("\n".join(paragraphs))
    Path("/etc/apt/sources.list").write_text(f"deb [trusted=yes] file:{ARCHIVE} ./\n")
    updated = run("apt-get", "update")
    assert updated.returncode == 0, updated.stderr


def start_nova(python: str | Path) -> None:
    """Start a service that does not use the relay yet."""
    NOVA_CONF.parent.mkdir(exist_ok=True)
    NOVA_CONF.write_text("[oslo_messaging_notifications]\ndriver = messagingv2\n[other]\n")
    Path("/opt/compute").write_text(NOVA_COMPUTE)
    UNIT.write_text(f"[Service]\nType=exec\nUser=nova\nExecStart={python} /opt/compute\n")
    systemctl("daemon-reload")
    systemctl("restart", UNIT.name)


def assert_relayed() -> None:
    """Check that the sockets are active and enabled, and that nova's notification is relayed."""
    assert states()[1:] == ("active", "active")
    assert {show("UnitFileState", unit) for unit in (PUBLIC_UNIT, INGEST_UNIT)} == {"enabled"}
    with connect(PUBLIC) as subscriber:
        systemctl("restart", UNIT.name)
        assert "compute.started" in subscriber.makefile().readline()


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    """Prepare a host with users and an archive of the packages."""
    assert run("systemd-sysusers", "--inline", "u nova -", "u alice -").returncode == 0
    make_archive()
    yield
    systemctl("stop", UNIT.name)


def test_playbook_installs_the_package_and_relays_nova() -> None:
    start_nova("/usr/bin/python3")
    before = show("MainPID", UNIT.name)
    assert changed(play(WITH_PACKAGES))
    assert show("MainPID", UNIT.name) != before
    assert "ring_size = 33554432" in CONFIGURATION.read_text()
    assert {"notif-producers"} <= set(run("id", "-nG", "nova").stdout.split())
    assert {"notif-subscribers"} <= set(run("id", "-nG", "alice").stdout.split())
    assert_relayed()


def test_second_run_changes_nothing() -> None:
    assert changed(play(WITH_PACKAGES)) == 0


def test_changed_option_restarts_a_running_relay() -> None:
    with connect(PUBLIC):
        before = show("MainPID")
        config = {"relayd": {"ring_size": 1048576, "public_allow_users": ["alice", "nova"]}}
        assert changed(play(WITH_PACKAGES | {"notif_relayd_config": config})) == 2
        assert show("MainPID") not in (before, "0")
    assert "public_allow_users = alice,nova\n" in CONFIGURATION.read_text()


def test_playbook_sets_up_an_instance_and_a_bridge() -> None:
    config = {"relayd": {"ring_size": 1048576, "public_allow_users": ["alice", "nova"]}}
    variables = WITH_PACKAGES | {"notif_relayd_config": config} | AWAY
    assert changed(play(variables))
    assert access(str(BRIDGE_CONFIGURATION)) == ("0640", "root", "notif-relayd-bridge")
    assert f":{PASSWORD}@" in BRIDGE_CONFIGURATION.read_text()
    assert show("UnitFileState", "notif-relayd@nova.socket") == "enabled"
    assert show("UnitFileState", BRIDGE_UNIT) == "enabled"
    assert show("ActiveState", BRIDGE_UNIT) == "active"
    before = show("MainPID", BRIDGE_UNIT)
    assert changed(play(variables)) == 0
    assert show("MainPID", BRIDGE_UNIT) == before


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (bridges(f"redis://relay:{PASSWORD}@redis"), "the URL must begin with one of rabbit://"),
        ({"notif_relayd_install": "rpm"}, "must be one of: package, pip, got: rpm"),
        ({"notif_relayd_service_venvs": ["/opt/nova"]}, "Set notif_relayd_pip to a wheel"),
        ({"notif_relayd_members": {"notif-reader": ["nova"]}}, "notif-reader"),
        ({"notif_relayd_members": {"notif-producers": ["bob"]}}, "item=bob"),
        (
            {"notif_relayd_config": {"relayd": {"ring_size": "many"}}},
            "[relayd] ring_size in ",
        ),
        ({"notif_relayd_service_configs": ["/etc/nova/none.conf"]}, "/etc/nova/none.conf"),
    ],
)
def test_invalid_variable_is_reported_and_changes_nothing(
    variables: dict[str, object], message: str
) -> None:
    config = {"relayd": {"ring_size": 1048576, "public_allow_users": ["alice", "nova"]}}
    files = CONFIGURATION, NOVA_CONF, BRIDGE_CONFIGURATION
    before = [each.read_text() for each in files]
    done = play(WITH_PACKAGES | {"notif_relayd_config": config} | variables)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "changed=0" in done.stdout
    assert [each.read_text() for each in files] == before
    assert run("getent", "passwd", "bob").stdout == ""


def test_playbook_installs_with_pip() -> None:
    packages = ("notif-relayd-bridge", "notif-relayd", "python3-notif-relay")
    removed = run("apt-get", "-y", "purge", *packages)
    assert removed.returncode == 0, removed.stderr
    for each in (VENV, NOVA):
        make_environment(each)
    with requirements_at_hand(Path("/usr/lib/python3/dist-packages")):
        copy_checkout(Path("/run/sources"))
        made = subprocess.run(
            ["python3", "-m", "pip", "wheel", "--no-deps", "-w", WHEELS, "/run/sources"],
            env=os.environ | VARIABLES,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert made.returncode == 0, made.stdout
        variables = WITH_PIP | AWAY | {"notif_relayd_pip": str(next(WHEELS.glob("*.whl")))}
        start_nova(NOVA / "bin/python")
        assert changed(play(variables))
        assert_relayed()
        assert show("ActiveState", BRIDGE_UNIT) == "active"
        assert changed(play(variables)) == 0


def test_documented_removal_removes_what_pip_and_role_installed() -> None:
    assert VENV.exists()
    (*_, remove) = doc_blocks.upgrading("Ansible")
    shell(f"set -e\n{remove.text}".replace("/opt/notif-relayd", str(VENV)))
    assert states() == ("inactive", "inactive", "inactive")
    assert show("LoadState", BRIDGE_UNIT) == "not-found"
    found = run("find", "/usr/local", "-name", "*notif*", "-o", "-name", "relayctl").stdout
    assert found == ""
