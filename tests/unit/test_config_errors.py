# SPDX-License-Identifier: Apache-2.0
"""Errors in configuration and logging files that need no process."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from notif_relayd.config_file import MAX_SIZE
from notif_relayd.daemon.configuration import Configuration
from notif_relayd.daemon.log_setup import check_logging
from notif_relayd.daemon.main import main
from notif_relayd.errors import MAX_MESSAGE, StartError, one_line
from notif_relayd.log_check import check_log_path, read_logging_file

LOGGING_FILE = (
    "[loggers]\nkeys = root\n[handlers]\nkeys = h\n[formatters]\nkeys = f\n"
    "[logger_root]\nhandlers = h\n[handler_h]\nclass = {}\nargs = {}\nformatter = f\n"
    "[formatter_f]\nformat = {}\n"
)

LEVELS = ("runtime_dir", "log_dir", "log_file", "log_date_format", "pidfile", "log_config_append")

REFERENCES = "[DEFAULT]\n" + "".join(
    f"{option} = {f'${other}' * 40}\n" for option, other in itertools.pairwise(LEVELS)
)
"""Options that refer to each other 40 to the power of 5 times."""


pytestmark = pytest.mark.usefixtures("restored_logging")


def error_of(path: Path, *arguments: str) -> str:
    """Return the error that a configuration file causes."""
    configuration = Configuration(["--config-file", str(path), *arguments], "1")
    with pytest.raises(StartError) as caught:
        check_logging(configuration.conf, configuration.load().daemonize)
    return one_line(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("\ufeff[relayd]\n", "a byte order mark in line 1"),
        ("[relayd]\ningest_path = /a\0b\n", "a NUL character in line 2"),
        (f"[relayd]\npublic_group = {'x' * MAX_SIZE}\n", "at most 1048576: correct the path"),
        ("[relayd]\nring_size =\n", "[relayd] ring_size in {}: a number has no value"),
        ("[DEFAULT]\nrate_limit_burst =\n", "rate_limit_burst in {}: a number has no value"),
        ("[relayd]\nmax_producers = 1" + 30 * "0", "[relayd] max_producers in {}: more than"),
        ("[DEFAULT]\ndaemonize = maybe\n", "[DEFAULT] daemonize in {}: "),
        ("[relayd]\npidfile = x\n", "pidfile in {}: unknown option; it belongs in [DEFAULT]"),
        (
            "[DEFAULT]\nconfig_source = relayd\n[relayd]\nring_sizes = 1\n",
            "[DEFAULT] config_source in {}: unknown option",
        ),
        ("[DEFAULT]\nruntime_dir = $runtime_dir\n", "runtime_dir in {}: the value refers to"),
        ("[DEFAULT]\nlog_dir = $log_file\nlog_file = $log_dir\n", "in {}: the value refers to"),
        (REFERENCES, "more than 1000 references to other options"),
        (
            f"[oslo_messaging_notifications]\nsock_path = /{'x' * 107}\n",
            "[oslo_messaging_notifications] sock_path in {}: /xxx",
        ),
        (
            "[relayd]\ningest_path = x\ncontrol_path = ./x\n",
            "[relayd] control_path in {}: ",
        ),
        (
            f"[relayd]\ningest_path = $control_path\ncontrol_path = {'x' * 5000}\n",
            "ingest_path in {}: a reference to control_path, which has more than 4096 characters",
        ),
        ("[DEFAULT]\ndefault_log_levels = a\n", "[DEFAULT] default_log_levels in {}: 'a'"),
        ("[DEFAULT]\nlogging_default_format_string = %(x)s\n", "the format of a log line"),
        ("[DEFAULT]\nlogging_exception_prefix = %(x)s\n", "the format of a log line"),
        (
            "[relayd]\npublic_allow_user = root\nno_such = 1\n[access:m]\nevent_types = x\n[x]\n",
            "[relayd] public_allow_user in {}: unknown option; did you mean public_allow_users? "
            "Also unknown: [relayd] no_such, [access:m] event_types, [x]",
        ),
        (
            "[relayd]\n" + "".join(f"xx{each} = 1\n" for each in range(9)),
            "[relayd] xx0 in {}: unknown option; remove it, or see notif-relayd.conf(5); also "
            "unknown: [relayd] xx1, [relayd] xx2, [relayd] xx3, [relayd] xx4, [relayd] xx5, 3 more",
        ),
        ("[relayd]\n\x1b[2J = 1\n", "\\u001b[2J"),
    ],
)
def test_error_names_file_and_option(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "relayd.conf"
    path.write_text(content)
    error = error_of(path)
    assert words.format(path) in error
    assert error.isprintable()


def test_references_on_the_command_line_are_limited(tmp_path: Path) -> None:
    path = tmp_path / "relayd.conf"
    path.touch()
    pairs = itertools.pairwise(LEVELS)
    arguments = [f"--{option.replace('_', '-')}={f'${other}' * 40}" for option, other in pairs]
    error = error_of(path, *arguments)
    assert error.startswith("the configuration has more than 20000 references")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[relayd]\ncontrol_path = DIR\n", "exists and is not a socket"),
        ("[relayd]\ncontrol_path = DIR/missing/x\n", "create DIR/missing"),
        ("[relayd]\ncontrol_path = DIR/fifo/x\n", "Not a directory"),
        ("[DEFAULT]\nlog_file = DIR/fifo\n", "no process reads from this FIFO"),
        ("[DEFAULT]\nlog_file = DIR\n", "Is a directory"),
        ("[DEFAULT]\nlog_file = /dev/fd/1000\n", "Bad file descriptor"),
        ("[DEFAULT]\ndaemonize = true\nlog_file = -\n", "the log would be lost"),
        ("[DEFAULT]\ndaemonize = true\npidfile = DIR\n", "Is a directory"),
        ("[DEFAULT]\ndaemonize = true\npidfile = DIR/relayd.conf\n", "is not a pidfile"),
        ("[DEFAULT]\ndaemonize = true\npidfile = DIR/missing/pid\n", "create the directory"),
    ],
)
def test_check_finds_what_cannot_be_written(
    tmp_path: Path, content: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = tmp_path / "relayd.conf"
    path.write_text(content.replace("DIR", str(tmp_path)))
    before = sorted(tmp_path.iterdir())
    assert main(["--check", "--runtime-dir", str(tmp_path), "--config-file", str(path)]) == 1
    assert words.replace("DIR", str(tmp_path)) in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_check_accepts_what_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    for options in ([], ["--log-file", str(fifo)], ["--daemonize", "--pidfile", f"{fifo}"]):
        assert main(["--check", "--runtime-dir", str(tmp_path), *options]) == 0
        assert capsys.readouterr().out == "ok\n"
    assert list(tmp_path.iterdir()) == [fifo]
    os.close(reader)


def test_empty_number_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_RELAYD__MAX_PRODUCERS", "")
    assert error_of(Path(os.devnull)).startswith("[relayd] max_producers: no value")


def test_unknown_option_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_RELAYD__PUBLIC_ALLOW_USER", "root")
    error = error_of(Path(os.devnull))
    assert error.startswith("OS_RELAYD__PUBLIC_ALLOW_USER in the environment: unknown option")
    assert error.endswith("did you mean OS_RELAYD__PUBLIC_ALLOW_USERS?")


def test_long_error_keeps_its_beginning_and_end() -> None:
    text = one_line(StartError(f"a {'b ' * MAX_MESSAGE}c"))
    assert len(text) == MAX_MESSAGE + len("...")
    assert (text[:3], text[-3:]) == ("a b", "b c")


def test_log_is_checked_at_the_end_of_its_links(tmp_path: Path) -> None:
    link = tmp_path / "link"
    for target, words in (
        ("link", "Too many levels"),
        ("missing/x.log", "No such file"),
        (".", "Is a directory"),
    ):
        link.symlink_to(target)
        with pytest.raises(StartError, match=words):
            check_log_path(str(link))
        link.unlink()
    link.symlink_to("new.log")
    check_log_path(str(link))


@pytest.mark.parametrize(
    ("handler", "arguments"),
    [
        ("handlers.HTTPHandler", "('host', '/', 'PUT')"),
        ("handlers.TimedRotatingFileHandler", "('/tmp/x.log', 'often')"),
        ("FileHandler", "('/dev/fd/1000',)"),
    ],
)
def test_arguments_of_a_handler_are_checked(tmp_path: Path, handler: str, arguments: str) -> None:
    path = tmp_path / "log.conf"
    path.write_text(LOGGING_FILE.format(handler, arguments, "%(message)s"))
    with pytest.raises((StartError, ValueError), match=r"GET or POST|Invalid|Bad file"):
        read_logging_file(str(path))


@pytest.mark.parametrize("text", ["%(x)s", "%(message)d"])
def test_wrong_format_in_a_logging_file_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.conf"
    path.write_text(LOGGING_FILE.format("StreamHandler", "()", text))
    with pytest.raises(ValueError, match="the format of a log line is wrong"):
        read_logging_file(str(path))
