# SPDX-License-Identifier: Apache-2.0
"""The files that ``make install`` writes for a package; ``inside/`` tests them on a host."""

import os
import re
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
SYSTEMD = CHECKOUT / "systemd"
UNITS = {
    "lib/systemd/system/notif-relayd.service": "notif-relayd",
    "lib/systemd/system/notif-relayd@.service": "notif-relayd",
    "lib/systemd/system/notif-relayd-bridge@.service": "notif-relayd-bridge",
    "lib/systemd/system/notif-relayd-exporter.service": "relayctl",
    "lib/systemd/system/notif-relayd-exporter@.service": "relayctl",
}
"""The units that start a program, and the programs."""


def install(destination: Path, *settings: str, target: str = "install") -> None:
    command = ["make", "--silent", target, f"DESTDIR={destination}", *settings]
    subprocess.run(command, cwd=CHECKOUT, check=True)


def files(destination: Path) -> set[str]:
    return {str(p.relative_to(destination)) for p in destination.rglob("*") if p.is_file()}


def test_files_are_installed_below_prefix_and_etc(tmp_path: Path) -> None:
    relative = Path(os.path.relpath(tmp_path, CHECKOUT))  # as in debian/rules
    install(relative, "PREFIX=/usr", "MAN=none")
    assert files(tmp_path) == {
        "etc/notif-relayd/bridge/NAME.conf.sample",
        "etc/notif-relayd/logging.conf.sample",
        "etc/notif-relayd/relayd.conf.sample",
        "usr/lib/systemd/system/notif-relayd.socket",
        "usr/lib/systemd/system/notif-relayd-ingest.socket",
        "usr/lib/systemd/system/notif-relayd.service",
        "usr/lib/systemd/system/notif-relayd@.socket",
        "usr/lib/systemd/system/notif-relayd-ingest@.socket",
        "usr/lib/systemd/system/notif-relayd@.service",
        "usr/lib/systemd/system/notif-relayd-bridge@.service",
        "usr/lib/systemd/system/notif-relayd-exporter.service",
        "usr/lib/systemd/system/notif-relayd-exporter@.service",
        "usr/lib/sysusers.d/notif-relayd-bridge.conf",
        "usr/lib/sysusers.d/notif-relayd.conf",
        "usr/lib/tmpfiles.d/notif-relayd-bridge.conf",
        "usr/lib/tmpfiles.d/notif-relayd.conf",
        "usr/share/bash-completion/completions/notif-relayd",
        "usr/share/bash-completion/completions/notif-relayd-bridge",
        "usr/share/bash-completion/completions/relayctl",
        "usr/share/fish/vendor_completions.d/notif-relayd.fish",
        "usr/share/fish/vendor_completions.d/notif-relayd-bridge.fish",
        "usr/share/fish/vendor_completions.d/relayctl.fish",
        "usr/share/notif-relayd/grafana/notif-relayd.json",
        "usr/share/notif-relayd/prometheus/notif-relayd.rules.yml",
        "usr/share/zsh/site-functions/_notif-relayd",
        "usr/share/zsh/site-functions/_notif-relayd-bridge",
        "usr/share/zsh/site-functions/_relayctl",
    }


def test_bindir_is_written_into_the_units(tmp_path: Path) -> None:
    install(tmp_path, "PREFIX=/searched")
    install(tmp_path, "PREFIX=/fixed", "BINDIR=/opt/relay/bin")
    for unit, program in UNITS.items():
        searched = (tmp_path / "searched" / unit).read_text()
        fixed = (tmp_path / "fixed" / unit).read_text()
        assert re.search(rf"^ExecStart={program}\b", searched, re.MULTILINE)
        assert fixed == re.sub(
            r"^(Exec\w+=)(notif-relayd|relayctl)",
            r"\1/opt/relay/bin/\2",
            searched,
            flags=re.MULTILINE,
        )


def test_reinstall_keeps_the_operators_configuration(tmp_path: Path) -> None:
    install(tmp_path)
    own = tmp_path / "etc/notif-relayd/relayd.conf"
    own.write_text("[relayd]\n")
    install(tmp_path)
    assert own.read_text() == "[relayd]\n"


def test_built_man_pages_are_installed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for name in ("relayctl.1", "notif-relayd.conf.5", "notif-relayd.8", "other"):
        (made / name).write_text(name)
    install(tmp_path / "root", "PREFIX=/usr", f"MAN={made}")
    pages = tmp_path / "root/usr/share/man"
    assert files(pages) == {"man1/relayctl.1", "man5/notif-relayd.conf.5", "man8/notif-relayd.8"}


def test_uninstall_removes_only_installed_files(tmp_path: Path) -> None:
    install(tmp_path)
    own, others = tmp_path / "etc/notif-relayd/relayd.conf", tmp_path / "usr/local/lib/other"
    own.write_text("[relayd]\n")
    others.touch()
    for _ in range(2):
        install(tmp_path, target="uninstall")
        assert files(tmp_path) == {str(each.relative_to(tmp_path)) for each in (own, others)}
    assert not (tmp_path / "usr/local/share/notif-relayd").exists()
    assert (tmp_path / "usr/local/lib/systemd/system").is_dir()


def test_memory_in_the_unit_of_bridges_adds_up_to_its_limit() -> None:
    unit = (SYSTEMD / "notif-relayd-bridge@.service").read_text()
    tables = unit.split("# The total is ")[:-1]
    totals = [int(each) for each in re.findall(r"^# The total is (\d+) MiB", unit, re.MULTILINE)]
    listed = [re.findall(r"^# {3,5}(\d+) ", each, re.MULTILINE) for each in tables]
    assert [sum(map(int, each)) for each in listed] == totals
    assert max(totals) < int(re.findall(r"^MemoryMax=(\d+)M$", unit, re.MULTILINE)[0])


def test_template_units_are_derived_from_the_units() -> None:
    names = ("exporter.service", "ingest.socket")
    for unit in (
        "notif-relayd.service",
        "notif-relayd.socket",
        *(f"notif-relayd-{n}" for n in names),
    ):
        derived = subprocess.run(
            ["sed", "-f", "instance.sed", unit], cwd=SYSTEMD, capture_output=True, check=True
        )
        template = SYSTEMD / unit.replace(".", "@.")
        assert derived.stdout == template.read_bytes(), f"see {SYSTEMD}/instance.sed"
