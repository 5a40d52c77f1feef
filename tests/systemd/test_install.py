# SPDX-License-Identifier: Apache-2.0
"""What ``make install`` puts where for a package; ``inside/`` tries it on a host."""

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
UNIT = "lib/systemd/system/notif-relayd.service"


def install(destination: Path, *settings: str) -> None:
    command = ["make", "--silent", "install", f"DESTDIR={destination}", *settings]
    subprocess.run(command, cwd=CHECKOUT, check=True)


def files(destination: Path) -> set[str]:
    return {str(p.relative_to(destination)) for p in destination.rglob("*") if p.is_file()}


def test_everything_lands_below_the_prefix_and_samples_in_etc(tmp_path: Path) -> None:
    install(tmp_path, "PREFIX=/usr")
    assert files(tmp_path) == {
        "etc/notif-relayd/logging.conf.sample",
        "etc/notif-relayd/relayd.conf.sample",
        "usr/lib/systemd/system/notif-relayd.socket",
        "usr/lib/systemd/system/notif-relayd-ingest.socket",
        "usr/lib/systemd/system/notif-relayd.service",
        "usr/lib/sysusers.d/notif-relayd.conf",
        "usr/lib/tmpfiles.d/notif-relayd.conf",
    }


def test_systemd_looks_for_the_program_unless_its_directory_is_given(tmp_path: Path) -> None:
    install(tmp_path, "PREFIX=/sought")
    install(tmp_path, "PREFIX=/given", "BINDIR=/opt/relay/bin")
    sought = (tmp_path / "sought" / UNIT).read_text()
    given = (tmp_path / "given" / UNIT).read_text()
    assert "\nExecStart=notif-relayd\n" in sought
    assert given == sought.replace("ExecStart=", "ExecStart=/opt/relay/bin/")


def test_installing_again_leaves_an_operators_configuration_alone(tmp_path: Path) -> None:
    install(tmp_path)
    own = tmp_path / "etc/notif-relayd/relayd.conf"
    own.write_text("[relayd]\n")
    install(tmp_path)
    assert own.read_text() == "[relayd]\n"
