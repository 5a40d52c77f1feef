# SPDX-License-Identifier: Apache-2.0
"""Errors in configuration files, at the start and on a reload."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.relay import RunningRelay, connect, quiet_environment, run_daemon, running_relay
from support.waiting import wait_until

WITH_DEFAULTS = """
import sys
from notif_relayd.daemon import config_files, main
config_files.CONFIG_FILE, config_files.CONFIG_DIR = {!r}, {!r}
sys.exit(main.main(sys.argv[1:]))
"""
"""Program that runs the daemon with another default file and directory."""

NOT_RELOADED = "the configuration was not reloaded: "

LOGGING_FILE = (
    "[loggers]\nkeys = root\n[handlers]\nkeys = h\n[formatters]\nkeys =\n"
    "[logger_root]\nhandlers = h\n[handler_h]\nclass = {}\nargs = {}\n"
)

VALID = "[relayd]\nring_size = 2000000\n"


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def write(text: str | bytes) -> Callable[[Path], None]:
    content = text.encode() if isinstance(text, str) else text

    def change(path: Path) -> None:
        path.write_bytes(content)

    return change


BROKEN: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "not UTF-8": (write(b"[relayd]\n# gr\xf6\xdfe\n"), ["UTF-8"]),
    "binary": (write(bytes(range(256))), []),
    "directory": (make_directory, ["not a regular file"]),
    "FIFO": (make_fifo, ["not a regular file"]),
    "link loop": (make_loop, ["links"]),
    "missing": (Path.unlink, ["No such file"]),
    "own name": (write("[relayd]\nring_size = $ring_size\n"), ["[relayd] ring_size in"]),
    "each other": (
        write("[relayd]\ningest_path = $control_path\ncontrol_path = $ingest_path\n"),
        ["[relayd]", "_path in", "refers to itself"],
    ),
    "no such name": (write("[relayd]\ningest_path = $nothing\n"), ["[relayd] ingest_path in"]),
    "wrong type": (write("[relayd]\nring_size = lots\n"), ["[relayd] ring_size in", "lots"]),
    "too small": (write("[relayd]\nring_size = 1\n"), ["[relayd] ring_size in", "65536"]),
    "contradiction": (
        write("[relayd]\nring_size = 70000\n"),
        ["[relayd] ring_size in", "max_record_size"],
    ),
    "mode": (write("[relayd]\npublic_mode = 999\n"), ["[relayd] public_mode in", "0660"]),
    "socket group": (write("[relayd]\npublic_group = nope\n"), ["[relayd] public_group in"]),
    "allowed user": (write("[relayd]\npublic_allow_users = nope\n"), ["public_allow_users in"]),
    "not boolean": (write("[DEFAULT]\ndebug = perhaps\n"), ["[DEFAULT] debug in"]),
    "unknown option": (
        write("[relayd]\npublic_allow_user = root\n"),
        ["[relayd] public_allow_user in", "did you mean public_allow_users?"],
    ),
    "option with hyphens": (write("[DEFAULT]\nruntime-dir = /x\n"), ["runtime_dir"]),
    "option of the command line": (write("[DEFAULT]\ncheck = true\n"), ["[DEFAULT] check in"]),
    "wrong section": (
        write("[DEFAULT]\nring_size = 2000000\n"),
        ["[DEFAULT] ring_size in", "it belongs in [relayd]"],
    ),
    "unknown section": (write("[relaydd]\nx = 1\n"), ["[relaydd] in", "relayd?"]),
    "empty unknown section": (write("[relaydd]\n"), ["[relaydd] in", "relayd?"]),
    "default in lower case": (write("[default]\ndebug = true\n"), ["[default] in", "DEFAULT?"]),
    "option of a rule": (
        write("[relayd]\naccess_rules = m\n[access:m]\ngroup = root\nevent_types = x\n"),
        ["[access:m] event_types in", "did you mean event_type?"],
    ),
    "group of a rule": (
        write("[relayd]\naccess_rules = m\n[access:m]\ngroup = nope\n"),
        ["[access:m] group in", "nope"],
    ),
    "no group in a rule": (write("[relayd]\naccess_rules = m\n"), ["[relayd] access_rules in"]),
    "unlisted rule": (
        write("[access:m]\ngroup = root\n"),
        ["[access:m] group in", "access_rules in [relayd]"],
    ),
    "sock_path": (
        write("[oslo_messaging_notifications]\nsock_pat = /x\n"),
        ["[oslo_messaging_notifications] sock_pat in", "sock_path?"],
    ),
    "no section": (write("ring_size = 2000000\n"), ["line 1"]),
    "log_config_append": (
        write("[DEFAULT]\nlog_config_append = /nonexistent/log.conf\n"),
        ["/nonexistent/log.conf"],
    ),
}

broken = pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN)


@pytest.fixture
def config(directory: Path) -> Path:
    path = directory / "relayd.conf"
    path.write_text(VALID)
    return path


def reload(relay: RunningRelay, logged: str) -> None:
    """Send SIGHUP, and wait until `logged` is in the log once more."""
    before = relay.log.read_text().count(logged)
    relay.process.send_signal(signal.SIGHUP)
    wait_until(lambda: relay.log.read_text().count(logged) > before, f"{logged!r} is logged")


def assert_error(result: subprocess.CompletedProcess[str], words: list[str]) -> None:
    assert (result.returncode, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("notif-relayd: ")
    for word in words:
        assert word in line


@broken
def test_error_prevents_the_start(
    config: Path, change: Callable[[Path], None], words: list[str]
) -> None:
    change(config)
    arguments = ("--runtime-dir", str(config.parent), "--config-file", str(config))
    assert_error(run_daemon(*arguments), words)
    assert_error(run_daemon(*arguments, "--check"), words)


@broken
def test_error_does_not_end_a_running_daemon(
    directory: Path, config: Path, change: Callable[[Path], None], words: list[str]
) -> None:
    with running_relay(directory, "--config-file", str(config)) as relay:
        change(config)
        reload(relay, NOT_RELOADED)
        (line,) = (each for each in relay.log.read_text().splitlines() if NOT_RELOADED in each)
        for word in words:
            assert word in line
        assert relay.status()["ring_limit_bytes"] == 2_000_000
        if config.is_dir():
            config.rmdir()
        config.unlink(missing_ok=True)
        config.write_text("[relayd]\nring_size = 4000000\n")
        reload(relay, "configuration reloaded")
        assert relay.status()["ring_limit_bytes"] == 4_000_000


def test_service_manager_is_told_about_a_reload(directory: Path, config: Path) -> None:
    with running_relay(directory, "--config-file", str(config)) as relay:
        for text in (VALID, "nonsense"):
            config.write_text(text)
            before = time.monotonic_ns() // 1000
            relay.process.send_signal(signal.SIGHUP)
            message = relay.wait_notified("RELOADING=1").splitlines()
            values = dict(line.split("=") for line in message)
            assert before <= int(values["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            relay.wait_notified("READY=1")


@pytest.mark.parametrize(
    "arguments", ["()", "(1 / 0,)", "(", "exit()", "('/nonexistent/x.log',)", "(1, 2, 3, 4, 5, 6)"]
)
def test_error_in_a_logging_file_is_reported(directory: Path, config: Path, arguments: str) -> None:
    logging_file = directory / "log.conf"
    logging_file.write_text(LOGGING_FILE.format("FileHandler", arguments))
    options = ("--runtime-dir", str(directory), "--log-config-append", str(logging_file))
    for check in ((), ("--check",)):
        assert_error(run_daemon(*options, *check), [])
    logging_file.write_text(LOGGING_FILE.format("StreamHandler", "()"))
    with running_relay(directory, *options[2:]) as relay:
        logging_file.write_text(LOGGING_FILE.format("FileHandler", arguments))
        os.utime(logging_file, (1, 1))
        reload(relay, NOT_RELOADED)
        assert relay.status()["subscribers"] == 0


def test_failed_reload_applies_no_logging_option(directory: Path, config: Path) -> None:
    log_config, log = directory / "log.conf", directory / "relay.log"
    with running_relay(directory, "--config-file", str(config)) as relay:
        for change in (
            "[relayd]\nidle_timeout = 60\n",
            f"log_config_append = {log_config}\n",
        ):
            log_config.write_text(LOGGING_FILE.format("FileHandler", "('/nonexistent/x.log',)"))
            config.write_text(f"[DEFAULT]\ndebug = true\n{change}")
            reload(relay, NOT_RELOADED)
            with connect(relay.public):
                relay.wait_status(subscribers=1)
            relay.wait_status(subscribers=0)
        text = log.read_text()
        assert "DEFAULT.debug" not in text
        assert "DEBUG" not in text
        config.write_text("[DEFAULT]\ndebug = true\n")
        reload(relay, "configuration reloaded")
        with connect(relay.public):
            relay.wait_logged("subscriber connected")


def test_reload_applies_a_logging_file(directory: Path, config: Path) -> None:
    log_config = directory / "log.conf"
    with running_relay(directory, "--config-file", str(config)) as relay:
        config.write_text(f"[DEFAULT]\nlog_config_append = {log_config}\n")
        for text, logged in (
            (LOGGING_FILE.format("StreamHandler", "()"), "configuration reloaded"),
            (
                LOGGING_FILE.format("FileHandler", "(_ for _ in ()).throw(KeyboardInterrupt)"),
                NOT_RELOADED,
            ),
        ):
            log_config.write_text(text)
            reload(relay, logged)


def test_option_is_named_without_the_file_that_it_overrides(directory: Path, config: Path) -> None:
    config.write_text("[relayd]\npublic_mode = 0660\n")
    result = run_daemon("--check", "--config-file", str(config), "--relayd-public_mode", "9")
    assert_error(result, ["[relayd] public_mode: '9'"])


def test_last_of_several_files_is_named(directory: Path, config: Path) -> None:
    parts = directory / "parts"
    parts.mkdir()
    (parts / "1.conf").write_text("[relayd]\nmax_producers = 5\n")
    (parts / "2.conf").write_text("[relayd]\nring_size = x\n")
    result = run_daemon("--check", "--config-file", str(config), f"--config-dir={parts}")
    assert_error(result, [f"[relayd] ring_size in {parts}/2.conf: "])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[RELAYD]\nring_size = $max_record_size\n",
        "[relayd]\naccess_rules = M\n[access:M]\ngroup = root\n",
        "[access:monitoring]\n# group = monitoring\n",
        "[oslo_messaging_notifications]\ndriver = unix\nsock_path = /run/nova/n.sock\n",
    ],
)
def test_valid_file_is_ok(directory: Path, config: Path, text: str) -> None:
    config.write_text(text)
    result = run_daemon("--runtime-dir", str(directory), "--check", "--config-file", str(config))
    assert (result.returncode, result.stdout, result.stderr) == (0, "ok\n", "")
    assert list(directory.iterdir()) == [config]


def test_deprecated_name_is_ok(config: Path) -> None:
    config.write_text("[DEFAULT]\nlogfile = x.log\n")
    assert run_daemon("--check", "--config-file", str(config)).stdout == "ok\n"


def test_sample_file_is_ok() -> None:
    sample = Path(__file__).parents[2] / "etc/notif-relayd/relayd.conf.sample"
    assert run_daemon("--check", "--config-file", str(sample)).stdout == "ok\n"


def test_invalid_value_in_the_environment_is_named(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_RELAYD__RING_SIZE", "many")
    result = run_daemon("--check", "--config-file", str(config))
    assert_error(result, ["ring_size in the environment", "OS_…__RING_SIZE"])
    assert str(config) not in result.stderr


def test_ok_is_not_printed_to_the_journal(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = directory / "output"
    with output.open("wb") as stdout:
        status = output.stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        command = [sys.executable, "-m", "notif_relayd", "--check"]
        subprocess.run(command, check=True, stdout=stdout)
    assert output.read_bytes() == b""


@pytest.mark.parametrize("output", [">&-", ">/dev/full"])
def test_check_fails_without_standard_output(output: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m notif_relayd --check {output}', sys.executable],
        capture_output=True,
        text=True,
        check=False,
        env=quiet_environment(),
    )
    assert_error(done, ["cannot write to standard output"])


def test_check_and_start_refuse_the_same_logs(directory: Path) -> None:
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    config = directory / "log.conf"
    for text, word in (
        ("default_log_levels = a=LOUD", "LOUD"),
        ("use_syslog = true\nsyslog_log_facility = nope", "facility"),
    ):
        config.write_text(f"[DEFAULT]\n{text}\n")
        arguments = ("--runtime-dir", str(directory), "--config-file", str(config))
        assert_error(run_daemon(*arguments, "--check"), [word])
    assert_error(run_daemon(*arguments), [word])
    # Without a reader, the daemon would wait.
    assert_error(run_daemon("--runtime-dir", str(directory), "--log-file", str(fifo)), [str(fifo)])


def test_check_opens_no_log(directory: Path) -> None:
    log = directory / "new.log"
    assert run_daemon("--check", "--log-file", str(log)).stdout == "ok\n"
    result = run_daemon("--check", "--log-file", f"{directory}/missing/new.log")
    assert_error(result, [f"{directory}/missing/new.log"])
    assert list(directory.iterdir()) == []


def test_help_ignores_the_configuration(config: Path) -> None:
    config.write_text("nonsense")
    for option in ("--help", "--version"):
        assert run_daemon("--config-file", str(config), option).returncode == 0


@pytest.fixture
def defaults(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[RunningRelay, Path, Path]]:
    """Run a relay whose default file and directory do not exist yet."""
    etc = directory / "etc"
    file, parts = etc / "relayd.conf", etc / "relayd.conf.d"
    program = WITH_DEFAULTS.format(str(file), str(parts))
    monkeypatch.setattr(RunningRelay, "program", ("-c", program))
    with running_relay(directory) as relay:
        etc.mkdir()
        yield relay, file, parts


def test_default_file_that_appears_later_is_reloaded(
    defaults: tuple[RunningRelay, Path, Path],
) -> None:
    relay, file, parts = defaults
    file.write_text("[relayd]\nring_size = 2000000\n")
    reload(relay, "configuration reloaded")
    assert relay.status()["ring_limit_bytes"] == 2_000_000
    parts.mkdir()
    (parts / "size.conf").write_text("[relayd]\nring_size = 3000000\n")
    reload(relay, "configuration reloaded")
    assert relay.status()["ring_limit_bytes"] == 3_000_000
    file.unlink()
    (parts / "size.conf").unlink()
    reload(relay, "configuration reloaded")
    assert relay.status()["ring_limit_bytes"] == 16 * 1024 * 1024


def test_default_file_that_cannot_be_read_is_an_error(
    defaults: tuple[RunningRelay, Path, Path],
) -> None:
    relay, file, _ = defaults
    file.symlink_to("nowhere")
    reload(relay, NOT_RELOADED)
    assert str(file) in relay.log.read_text()


def test_ring_still_holds_a_record_of_the_running_daemon(directory: Path, config: Path) -> None:
    """A lower max_record_size takes effect at a restart, so the ring stays large enough."""
    with running_relay(directory, "--config-file", str(config)) as relay:
        config.write_text("[relayd]\nring_size = 65536\nmax_record_size = 65536\n")
        reload(relay, "configuration reloaded")
        assert relay.status()["ring_limit_bytes"] == 1024 * 1024
        assert "immutable option relayd.max_record_size" in relay.log.read_text()


def test_relative_paths_work_in_the_background(directory: Path) -> None:
    (directory / "parts").mkdir()
    (directory / "my.conf").write_text("[DEFAULT]\nlog_config_append = log.conf\n")
    (directory / "log.conf").write_text(
        "[loggers]\nkeys = root\n[handlers]\nkeys = h\n[formatters]\nkeys =\n"
        "[logger_root]\nlevel = INFO\nhandlers = h\n"
        "[handler_h]\nclass = FileHandler\nargs = ('the.log',)\n"
    )
    command = [
        *(sys.executable, "-m", "notif_relayd", "--daemonize", "--pidfile", "pid"),
        *("--runtime-dir", ".", "--config-file", "my.conf", "--config-dir=parts"),
    ]
    subprocess.run(
        command, check=True, cwd=directory, stdin=subprocess.DEVNULL, env=quiet_environment()
    )
    pid = int((directory / "pid").read_text())

    def status() -> dict[str, object]:
        with connect(directory / "control.sock") as control:
            control.sendall(b'{"method": "status"}\n')
            result = json.loads(control.makefile("rb").readline())["result"]
        assert isinstance(result, dict)
        return result

    try:
        assert status()["subscribers"] == 0
        (directory / "log.conf").write_text(
            (directory / "log.conf").read_text().replace("the.log", "other.log")
        )
        os.utime(directory / "log.conf", (1, 1))
        (directory / "parts/1.conf").write_text("[relayd]\nring_size = 2000000\n")
        os.kill(pid, signal.SIGHUP)
        other = directory / "other.log"
        wait_until(
            lambda: other.exists() and "configuration reloaded" in other.read_text(),
            "the configuration is reloaded",
        )
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
        assert status()["ring_limit_bytes"] == 2_000_000
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it has ended")
