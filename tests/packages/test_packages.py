# SPDX-License-Identifier: Apache-2.0
"""Install, upgrade under load, remove and purge the packages on a Debian with a real systemd.

The tests run in this order; each continues with the state that the previous one left.
"""

import os
import shutil
from pathlib import Path

import pytest

from support import doc_blocks
from support.container import (
    INGEST,
    PUBLIC,
    PUBLIC_UNIT,
    SERVICE,
    access,
    connect,
    relays,
    run,
    show,
    states,
)
from support.debian_packages import NEW, OLD, apt, documented, package, shell
from support.load import load

PYTHON = "/usr/bin/python3"
"""Debian's Python, which imports the installed packages and not the checkout."""

PRODUCERS, SUBSCRIBERS = 4, 20
RATE = 10_000
"""Records per second of all producers together."""
BEFORE_AND_AFTER = 20_000
"""Number of records that are read before the upgrade, and again after it."""

INSTANCE = "notif-relayd@nova.service"

BRIDGE = "notif-relayd-bridge@region-1.service"
BRIDGE_CONFIGURATION = Path("/etc/notif-relayd/bridge/region-1.conf")
SPOOLS = Path("/var/lib/notif-relayd-bridge")

LOAD_DRIVERS = """
from importlib.metadata import entry_points
for group in ("oslo.messaging.notify.drivers", "oslo.messaging.drivers"):
    (found,) = entry_points(group=group, name="unix")
    print(found.load().__module__)
"""

NOTIFY = """
import oslo_messaging
from oslo_config import cfg
conf = cfg.ConfigOpts()
conf(["--config-file", "/run/nova.conf"], project="nova")
transport = oslo_messaging.get_notification_transport(conf, url="fake://")
notifier = oslo_messaging.Notifier(transport, "compute.host-1", topics=["t"])
notifier.info({}, "compute.instance.create.end", {"host": "here"})
"""


def python(code: str, user: str | None = None) -> str:
    environment = ("env", "-u", "PYTHONPATH")
    done = run(*environment, PYTHON, "-I", "-c", code, user=user)
    assert done.returncode == 0, done.stderr
    return done.stdout


def version(name: str) -> str:
    return run("dpkg-query", "-W", "-f", "${Version}", name).stdout


def related_files() -> set[str]:
    """Return all files of this host whose paths contain the project's name."""
    found = run(
        *("find", "/etc", "/usr", "/var", "/run", "-xdev"),
        *("(", "-name", "*notif[-_]relay*", "-o", "-path", "*/notif[-_]relay*", ")"),
        *("-not", "-path", "/opt/*", "-not", "-path", "/var/lib/apt/*"),
        *("-not", "-path", "/var/cache/apt/*"),
    )
    return set(found.stdout.split())


@pytest.fixture(scope="module", autouse=True)
def before() -> set[str]:
    return related_files()


def test_library_package_provides_the_messaging_drivers() -> None:
    apt("install", package(OLD, "python3-notif-relay"))
    assert python(LOAD_DRIVERS).split() == [
        "notif_relay.messaging.driver",
        "notif_relay.messaging.transport",
    ]
    assert run("python3", "-I", "-c", "import notif_relayd").returncode != 0


def test_installed_relay_listens_before_the_first_connection() -> None:
    documented("apt-get install -y ./dist", OLD)
    assert run("dpkg", "--audit").stdout == ""
    python("from notif_relayd import fastpath; assert not fastpath.WHY_NOT, fastpath.WHY_NOT")
    assert states() == ("inactive", "active", "active")
    assert show("UnitFileState", PUBLIC_UNIT) == "enabled"
    assert show("UnitFileState", "notif-relayd-exporter.service") == "disabled"
    assert access(PUBLIC) == ("0660", "notif-relayd", "notif-subscribers")
    assert access(INGEST) == ("0660", "notif-relayd", "notif-producers")
    assert relays()


def test_service_with_the_librarys_driver_is_relayed() -> None:
    made = run("systemd-sysusers", "--inline", "u nova -", "m nova notif-producers")
    assert made.returncode == 0, made.stderr
    lines = ["[oslo_messaging_notifications]", "driver = unix", f"sock_path = {PUBLIC}", ""]
    Path("/run/nova.conf").write_text("\n".join(lines))
    with connect(PUBLIC) as subscriber:
        python(NOTIFY, user="nova")
        assert b"compute.instance.create.end" in subscriber.makefile("rb").readline()


def test_relayctl_works_with_debians_libraries() -> None:
    assert "records_received" in run("relayctl", "status").stdout
    assert "notif_relayd_up 1" in run("relayctl", "metrics").stdout
    for name, installed in (
        ("bash", "bash-completion/completions/relayctl"),
        ("fish", "fish/vendor_completions.d/relayctl.fish"),
        ("zsh", "zsh/vendor-completions/_relayctl"),
    ):
        printed = run("relayctl", "complete", "--shell", name).stdout
        assert Path("/usr/share", installed).read_text() == printed


def test_daemonize_works_with_debians_python_daemon(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    options = ("--runtime-dir", str(tmp_path), "--pidfile", str(pid), "--daemonize")
    started = run("/usr/bin/notif-relayd", *options)
    assert started.returncode == 0, started.stderr
    with connect(str(tmp_path / "notifications.sock")):
        os.kill(int(pid.read_text()), 15)


def test_bridge_runs_with_debians_client() -> None:
    apt("install", package(OLD, "notif-relayd-bridge"))
    assert access(str(BRIDGE_CONFIGURATION.parent)) == ("0750", "root", "notif-relayd-bridge")
    create, *_ = (
        block.text for block in doc_blocks.rst("howto/bridge.rst") if "install -m" in block.text
    )
    shell(create)
    # The load of the next test is not for the bridge.
    options = "target = rabbit://127.0.0.1:9/\nevent_type = compute.*\n"
    BRIDGE_CONFIGURATION.write_text(f"[bridge]\n{options}")
    run("systemctl", "enable", "--now", BRIDGE)
    assert show("ActiveState", BRIDGE) == "active"
    assert "region-1" in run("relayctl", "bridges").stdout


def test_upgrade_under_load_loses_no_record() -> None:
    run("systemctl", "enable", "--now", INSTANCE.replace(".service", ".socket"))
    run("systemctl", "start", INSTANCE)
    before_upgrade = {unit: show("MainPID", unit) for unit in (INSTANCE, BRIDGE)}
    with load(PUBLIC, INGEST, subscribers=SUBSCRIBERS) as running:
        running.produce(PRODUCERS, rate=RATE // PRODUCERS)
        running.wait_received(BEFORE_AND_AFTER)
        before, sockets = show("MainPID"), show("ActiveEnterTimestampMonotonic", PUBLIC_UNIT)
        documented("apt-get install -y --only-upgrade", NEW)
        running.wait_received(BEFORE_AND_AFTER)
        produced = running.finish()
    assert show("MainPID") not in (before, "0")
    for unit, pid in before_upgrade.items():
        assert show("MainPID", unit) not in (pid, "0")
    assert show("ActiveEnterTimestampMonotonic", PUBLIC_UNIT) == sockets
    assert version("notif-relayd") == version("python3-notif-relay")
    assert version("notif-relayd") == version("notif-relayd-bridge")
    assert version("notif-relayd").endswith("+upgrade")
    for checker in running.checkers:
        assert checker.errors == []
        assert checker.crash_gaps == 0
        assert checker.received == sum(each.sent for each in produced)
        assert checker.missing == checker.announced == sum(each.dropped for each in produced)


def test_upgrade_does_not_start_a_stopped_relay() -> None:
    # A bridge that runs would start the relay.
    run("systemctl", "stop", BRIDGE, SERVICE)
    for name in ("notif-relayd", "notif-relayd-bridge"):
        apt("install", "--reinstall", package(NEW, name))
    assert states() == ("inactive", "active", "active")
    assert show("ActiveState", BRIDGE) == "inactive"


def test_remove_stops_the_relay_and_keeps_configuration() -> None:
    assert relays()
    run("systemctl", "start", BRIDGE)
    documented("apt-get remove")
    assert states() == ("inactive", "inactive", "inactive")
    assert show("ActiveState", INSTANCE) == show("ActiveState", BRIDGE) == "inactive"
    for runtime in ("/run/notif-relayd", "/run/notif-relayd-bridge"):
        assert not Path(runtime).exists()
    assert Path("/etc/notif-relayd/relayd.conf.sample").exists()
    assert BRIDGE_CONFIGURATION.exists()
    assert SPOOLS.exists()


def test_purge_leaves_only_users(before: set[str]) -> None:
    apt("purge", "notif-relayd-bridge")
    documented("apt-get purge")
    assert related_files() - before == {
        str(each)
        for each in (
            BRIDGE_CONFIGURATION.parents[1],
            BRIDGE_CONFIGURATION.parent,
            BRIDGE_CONFIGURATION,
        )
    }
    shutil.rmtree(BRIDGE_CONFIGURATION.parents[1])
    assert run("getent", "group", "notif-producers").returncode == 0
