# SPDX-License-Identifier: Apache-2.0
"""A bare Debian that is booted as a container, with the network of the host.

`make test-bare` creates its root directory; each call of `follow` works on a copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from support.doc_blocks import ROOT
from support.waiting import kill

DEADLINE = 1200
"""Seconds for all commands, which download and compile: far more than they take."""

SUITE = os.environ.get("SUITE", "trixie")

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

UNIT = f"""
[Service]
Type=oneshot
WorkingDirectory=/root/notif-relayd
Environment=HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PIP_CERT={CERTIFICATES}
ExecStart=/bin/bash /opt/test/commands
StandardOutput=append:/opt/test/output
StandardError=inherit
ExecStopPost=/bin/sh -c 'echo "$EXIT_STATUS" >/opt/test/status; systemctl --no-block poweroff'
"""

PREAMBLE = """
set -eu
apt-get update -q
for user in alice carol nova; do useradd --create-home --shell /bin/bash "$user"; done

# shows COMMAND: start it, and fail unless it shows a notification.
shows() {
    setsid stdbuf -oL bash -c "$1" >/tmp/shown 2>&1 &
    local reader=$! attempts=0
    until grep -q compute.instance.broken /tmp/shown; do
        ((++attempts < 50)) || { cat /tmp/shown; exit 1; }
        relayctl send --event-type compute.instance.broken --priority ERROR '{"from": "me"}'
    done
    kill -- "-$reader"
}
set -x
"""


def follow(directory: Path, commands: str) -> None:
    """Run commands as root in a checkout on a bare Debian; check that each succeeds.

    Args:
        directory: for the files of the container, which are removed at the end.
        commands: for bash.
    """
    root, work = directory / "root", directory / "work"
    subprocess.run(["cp", "-a", ROOT / ".debian" / SUITE / "bare", root], check=True)
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__")
    shutil.copytree(ROOT, root / "root/notif-relayd", ignore=ignored)
    work.mkdir()
    (work / "commands").write_text(PREAMBLE + commands)
    (root / "etc/systemd/system/commands.service").write_text(UNIT)
    try:
        _boot(root, work)
    finally:
        shutil.rmtree(root)
    shown = "".join(
        path.read_text() for path in (work / "output", work / "console") if path.exists()
    )
    status = work / "status"
    assert status.exists(), shown
    assert status.read_text() == "0\n", shown[-10_000:]


def _boot(root: Path, work: Path) -> None:
    # The network of the host may have a certification authority and a clock of its own.
    of_host = [Path(CERTIFICATES), *Path("/etc/apt/apt.conf.d").glob("99*")]
    command = [
        # A separate PID namespace: when pytest ends in any way, all processes in it end.
        *("setpriv", "--pdeathsig=KILL"),
        *("unshare", "--pid", "--mount-proc", "--fork", "--kill-child"),
        *("systemd-nspawn", "--quiet", f"--directory={root}", "--boot"),
        *("--register=no", "--keep-unit", f"--machine=bare-{os.getpid()}"),
        *("--resolv-conf=copy-host", f"--bind={work}:/opt/test"),
        *(f"--bind-ro={path}" for path in of_host if path.exists()),
        *("systemd.unit=commands.service", "systemd.wants=dbus.socket"),
        *("systemd.condition-first-boot=no", "systemd.show_status=no"),
    ]
    with (work / "console").open("wb") as console:
        container = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "yes"},
        )
        try:
            container.wait(DEADLINE)
        finally:
            kill(container)
