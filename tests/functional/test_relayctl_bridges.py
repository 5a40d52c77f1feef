# SPDX-License-Identifier: Apache-2.0
"""relayctl bridges with a real bridge, and as a user without permission."""

from __future__ import annotations

import json
from pathlib import Path

from support.bridge import fake_broker, running_bridge
from support.bridge_status import REPORT, serve
from support.relay import Relay
from support.relayctl import assert_error, needs_root, relayctl, relayctl_as_nobody


def test_real_bridge_is_listed(directory: Path, relay: Relay) -> None:
    (directory / "bridges" / "out").mkdir(parents=True)
    path = directory / "bridges" / "out" / "status.sock"
    option = ("--bridge-dir", str(path.parents[1]))
    with (
        fake_broker(directory) as broker,
        running_bridge(directory, relay, broker.url, status_socket=path) as bridge,
    ):
        broker.accept()
        bridge.wait_logged("connected to the broker")
        done = relayctl(directory, "bridges", *option, "-f", "json")
        bridge.kill()
        killed = relayctl(directory, "bridges", *option, "-f", "value", "-c", "state")
    assert (done.returncode, done.stderr) == (0, "")
    [row] = json.loads(done.stdout)
    assert (row["name"], row["state"], row["connected"]) == ("out", "running", True)
    assert (killed.returncode, killed.stdout) == (0, "not running\n")


@needs_root
def test_missing_permission_is_shown(directory: Path) -> None:
    option = ("--bridge-dir", str(directory))
    with serve(directory, "out", REPORT):
        assert_error(relayctl_as_nobody(directory, "bridges", *option), 4, str(directory))
        directory.chmod(0o755)
        done = relayctl_as_nobody(directory, "bridges", *option, "-f", "value", "-c", "state")
    assert done.stdout == "no permission\n"
    assert_error(done, 4, f"you may not connect to {directory}/out/status.sock")
