# SPDX-License-Identifier: Apache-2.0
"""The exporter as a service in the sandbox of its unit."""

import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.container import (
    DEADLINE,
    Journal,
    needs_loopback,
    relays,
    run,
    show,
    states,
    systemctl,
)

EXPORTER = "notif-relayd-exporter.service"


@pytest.fixture
def exporter() -> Iterator[str]:
    """Start the exporter; return its URL."""
    systemctl("start", EXPORTER)
    yield "http://127.0.0.1:9856/metrics"
    systemctl("stop", EXPORTER)


def scrape(url: str) -> list[str]:
    needs_loopback()
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        return [line for line in answer.read().decode().splitlines() if line[0] != "#"]


def test_exporter_does_not_start_the_relay(exporter: str) -> None:
    assert scrape(exporter) == ["notif_relayd_up 0.0"]
    assert states() == ("inactive", "active", "active")
    assert relays()
    scraped = scrape(exporter)
    assert "notif_relayd_up 1.0" in scraped
    assert "notif_relayd_records_received_total 1.0" in scraped


def test_exporter_may_query_the_bridges(exporter: str) -> None:
    needs_loopback()
    assert run("systemd-tmpfiles", "--create", "notif-relayd-bridge.conf").returncode == 0
    unit, path = "notif-relayd-bridge@b.service", Path("/etc/notif-relayd/bridge/b.conf")
    path.write_text("[bridge]\ntarget = nats://127.0.0.1:9\n")
    shutil.chown(path, "root", "notif-relayd-bridge")
    systemctl("start", unit)
    scraped = scrape(exporter)
    systemctl("stop", unit)
    path.unlink()
    assert 'notif_relayd_bridge_up{bridge="b"} 1.0' in scraped
    labels = '{bridge="b",broker="nats",direction="out"}'
    assert f"notif_relayd_bridge_connected{labels} 0.0" in scraped


def test_exporter_survives_a_stop_of_the_relay(exporter: str) -> None:
    assert relays()
    systemctl("stop", "notif-relayd.socket", "notif-relayd.service")
    assert scrape(exporter) == ["notif_relayd_up 0.0"]
    assert show("ActiveState", EXPORTER) == "active"


def test_exporter_runs_as_its_own_user_and_stops_cleanly(exporter: str, journal: Journal) -> None:
    pid = show("MainPID", EXPORTER)
    status = Path(f"/proc/{pid}/status").read_text()
    (user,) = (line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
    assert int(user) not in (0, int(run("id", "-u", "notif-relayd").stdout))
    assert "CapEff:\t0000000000000000\n" in status
    systemctl("stop", EXPORTER)
    assert show("Result", EXPORTER) == "success"
    assert show("ExecMainStatus", EXPORTER) == "0"


def test_exporter_is_disabled_and_not_started_by_the_relay() -> None:
    assert relays()
    assert show("UnitFileState", EXPORTER) == "disabled"
    assert show("ActiveState", EXPORTER) == "inactive"


def test_systemd_analyze_accepts_the_exporter_unit() -> None:
    verified = run("systemd-analyze", "verify", EXPORTER)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_exporter_unit_has_exposure_of_at_most_1() -> None:
    # In tenths: the exposure is at most 1.0 of 10, mostly for the network and visible users.
    scored = run("systemd-analyze", "security", "--offline=true", "--threshold=10", EXPORTER)
    assert scored.returncode == 0, scored.stdout
