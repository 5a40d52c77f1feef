# SPDX-License-Identifier: Apache-2.0
"""Errors at start are one line on stderr, with exit status 1."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from notif_relay import __version__
from support.relay import quiet_environment, run_daemon, running_relay
from support.waiting import TIMEOUT, wait_until

DIRECTORY = "DIRECTORY"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runtime-dir", "/nonexistent/dir"], ["/nonexistent/dir", "create"]),
        (["--runtime-dir", "/" + "x" * 120], ["longer than 107 bytes"]),
        (["--runtime-dir", "/dev/null"], ["/dev/null"]),
        (["--no-such-option"], ["--no-such-option", "--help"]),
        (["--relayd-ring_size", "many"], ["ring_size", "many"]),
        (["--relayd-ring_size", "1"], ["ring_size", "1"]),
        (["--relayd-ring_size", "65536"], ["ring_size", "max_record_size"]),
        (["--relayd-max_record_size", "-5"], ["max_record_size", "-5"]),
        (["--relayd-max_producers", "0"], ["max_producers"]),
        (["--relayd-max_subscribers", "1e3"], ["max_subscribers"]),
        (["--relayd-public_mode", "rw-rw----"], ["public_mode", "0660"]),
        (["--relayd-public_mode", "9999"], ["public_mode", "0660"]),
        (["--relayd-public_mode", "17777"], ["public_mode", "0660"]),
        (["--relayd-ingest_mode", "-1"], ["ingest_mode"]),
        (["--relayd-public_group", "no-such-group"], ["public_group", "no-such-group"]),
        (["--relayd-ingest_user", "no-such-user"], ["ingest_user", "no-such-user"]),
        (["--relayd-control_group", ""], ["control_group"]),
        (["--config-file", "/nonexistent/relayd.conf"], ["/nonexistent/relayd.conf"]),
        (["--config-dir", "/nonexistent/dir"], ["/nonexistent/dir"]),
        (["--log-config-append", "/nonexistent/logging.conf"], ["/nonexistent/logging.conf"]),
        (["--log-file", "/nonexistent/relay.log"], ["/nonexistent/relay.log"]),
        (["--pidfile", "/tmp/pid"], ["--pidfile", "--daemonize"]),
        (["--daemonize", "--pidfile", "/nonexistent/pid"], ["--pidfile", "/nonexistent/pid"]),
    ],
    ids=" ".join,
)
def test_invalid_option_is_a_one_line_error(
    directory: Path, arguments: list[str], words: list[str]
) -> None:
    result = run_daemon("--runtime-dir", str(directory), *arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("notif-relayd: ")
    for word in words:
        assert word in line
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[relayd]\nring_size = lots\n", ["ring_size", "lots"]),
        ("[relayd]\npublic_mode = 8\n", ["public_mode", "0660"]),
        ("[relayd]\ningest_group = no-such-group\n", ["ingest_group", "no-such-group"]),
        ("ring_size", ["relayd.conf"]),
        ("\x00\x01", ["relayd.conf"]),
    ],
)
def test_invalid_configuration_file_is_a_one_line_error(
    directory: Path, text: str, words: list[str]
) -> None:
    config = directory / "relayd.conf"
    config.write_text(text)
    result = run_daemon("--runtime-dir", str(directory), "--config-file", str(config))
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    for word in words:
        assert word in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its capabilities")
def test_unwritable_directory_is_named(directory: Path) -> None:
    directory.chmod(0o555)
    result = subprocess.run(
        [
            *("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
            *(sys.executable, "-m", "notif_relayd", "--runtime-dir", directory),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=quiet_environment(),
    )
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert f"give the daemon's user write permission for {directory}" in line


def test_help_and_version_succeed() -> None:
    shown = run_daemon("--help")
    assert shown.returncode == 0
    for option in ("--runtime-dir", "--daemonize", "--pidfile", "--relayd-ring_size"):
        assert option in shown.stdout
    shown = run_daemon("--version")
    assert (shown.returncode, shown.stdout.strip()) == (0, __version__)


def test_options_are_read_from_a_file_and_a_directory(directory: Path) -> None:
    (directory / "relayd.conf").write_text("[relayd]\nring_size = 2000000\nmax_producers = 1\n")
    parts = directory / "parts"
    parts.mkdir()
    (parts / "10-size.conf").write_text("[relayd]\nring_size = 3000000\n")
    arguments = ("--config-file", str(directory / "relayd.conf"), "--config-dir", str(parts))
    with running_relay(directory, *arguments) as relay:
        assert relay.status()["ring_limit_bytes"] == 3_000_000


def test_missing_requirements_are_named(directory: Path) -> None:
    """The base installation has the commands, but not their dependencies."""
    root = Path(__file__).parents[2]
    entries = (
        ("notif_relayd", "relayd", "notif-relayd"),
        ("notif_relayctl", "relayctl", "relayctl"),
    )
    for package, function, name in entries:
        result = subprocess.run(
            [
                *(sys.executable, "-S", "-c"),
                f"import sys; from {package}.entry import {function}; sys.exit({function}())",
            ],
            env={"PYTHONPATH": f"{root / 'handler'}:{root / 'relayd'}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1
        [line] = result.stderr.splitlines()
        assert line.startswith(f"{name}: ")
        assert "pip install '.[daemon]'" in line


def test_systemd_python_is_required_only_for_passed_sockets(directory: Path) -> None:
    """The extra `standalone` does not install systemd-python."""
    code = (
        "import os, sys; sys.modules['systemd'] = None; "
        "os.environ['LISTEN_PID'] = str(os.getpid()) if 'LISTEN_FDS' in os.environ else ''; "
        "from notif_relayd.entry import relayd; sys.exit(relayd())"
    )
    command = [sys.executable, "-c", code, "--runtime-dir", str(directory)]
    with subprocess.Popen(command) as daemon:
        try:
            wait_until((directory / "control.sock").exists, "the relay listens")
        finally:
            daemon.terminate()
    passed = subprocess.run(
        command, env={**os.environ, "LISTEN_FDS": "1"}, capture_output=True, text=True, check=False
    )
    assert passed.returncode == 1
    [line] = passed.stderr.splitlines()
    assert "pip install '.[daemon]'" in line


def test_sample_configuration_is_current_and_loadable(directory: Path) -> None:
    sample = Path(__file__).parents[2] / "etc/notif-relayd/relayd.conf.sample"
    generator = Path(sys.executable).with_name("oslo-config-generator")
    fresh = subprocess.run(
        [generator, "--namespace", "notif_relayd"], capture_output=True, text=True, check=True
    ).stdout
    assert sample.read_text() == fresh, f"regenerate it: {generator} --namespace notif_relayd"
    with running_relay(directory, "--config-file", str(sample)) as relay:
        assert relay.status()["ring_limit_bytes"] == 16 * 1024 * 1024


def test_too_low_descriptor_limit_is_a_warning(directory: Path) -> None:
    command = ("prlimit", "--nofile=200:300", sys.executable, "-m", "notif_relayd")
    relay = subprocess.Popen(
        [*command, "--runtime-dir", directory], stderr=subprocess.PIPE, text=True
    )
    try:
        assert relay.stderr is not None
        while "may open 300 files" not in (line := relay.stderr.readline()):
            assert line
        limits = Path(f"/proc/{relay.pid}/limits").read_text()
        assert re.search(r"Max open files +300 +300", limits)
    finally:
        relay.terminate()
        relay.communicate(timeout=TIMEOUT)
