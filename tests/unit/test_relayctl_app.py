# SPDX-License-Identifier: Apache-2.0
"""relayctl without a relay: arguments, help and formatting of values."""

from __future__ import annotations

import pwd
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cliff.columns import FormattableColumn

from notif_relay import __version__
from notif_relay.request import filter_request
from notif_relayctl.accounts import group_name, user_name
from notif_relayctl.app import Relayctl, main
from notif_relayctl.columns import Duration
from notif_relayctl.command_table import COMMANDS

NAMES = [
    *("status", "producers", "subscribers", "tail", "top", "disconnect", "send", "doctor"),
    *("groups", "bridges", "metrics", "exporter", "complete", "help"),
]

README = (Path(__file__).parents[2] / "README.md").read_text()

CLASSES: dict[str, Any] = {name: entry.load() for name, entry in Relayctl().command_manager}

EXAMPLES = [
    *re.findall(r"^(?:[^`\n]* \| )?(relayctl .*)$", README, re.MULTILINE),
    *(CLASSES[name].example for name in NAMES),
]

UNUSED_ID = 2**31 - 7
"""A number that is not the ID of a user or a group."""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "unknown command ''; see relayctl"),
        ("zzz", "unknown command 'zzz'; see relayctl"),
        ("stauts", "unknown command 'stauts'; did you mean status? See relayctl"),
        ("disc 7", "unknown command 'disc'; did you mean disconnect? See relayctl"),
        ("help stauts", "unknown command 'stauts'; did you mean status? See relayctl"),
        ("--runtim=/x status", "'--runtim'; did you mean --runtime-dir? See relayctl"),
        ("-f json status", "'-f'; the options of a command follow its name; see relayctl"),
        ("status --runtime-dir", "--runtime-dir: expected one argument; see relayctl"),
        ("status extra", "unrecognized arguments: extra; see relayctl status"),
        ("status --quote", "unknown option '--quote'; see relayctl status"),
        ("status -f", "-f/--format: expected one argument; see relayctl status"),
        (
            "status --max-width wide",
            "'wide' is not a whole number of at least 0; see relayctl status",
        ),
        ("status --runtime /x", "'--runtime'; did you mean --runtime-dir? See relayctl status"),
        ("status --formt json", "'--formt'; did you mean --format? See relayctl status"),
        ("producers --sort-col=pid", "did you mean --sort-column? See relayctl producers"),
        ("tail -x", "unknown option '-x'; see relayctl tail"),
        ("tail --event-typ x", "'--event-typ'; did you mean --event-type? See relayctl tail"),
        ("send --event-typ x 1", "'--event-typ'; did you mean --event-type? See relayctl send"),
        ("send --event-type x --priority warnign", "did you mean WARN? See relayctl send"),
        ("tail --priority wrn", "unknown priority 'WRN'; did you mean WARN? See relayctl tail"),
        ("producers -c recrods", "did you mean records? See relayctl producers"),
        (
            "producers --max-width -1",
            "'-1' is not a whole number of at least 0; see relayctl producers",
        ),
        ("disconnect 1_0", "'1_0' is not a whole number of at least 1; see relayctl disconnect"),
        ("doctor --user ", "--user: the name is empty; see relayctl doctor"),
        ("tail --sock-path ", "--sock-path: the path is empty; see relayctl tail"),
        ("send --event-type x --ingest-path ", "the path is empty; see relayctl send"),
        ("status --control-path ", "the path is empty; see relayctl"),
        ("--runtime-dir  status", "the path is empty; see relayctl"),
        ("send -- --zzz", "required: --event-type; see relayctl send"),
    ],
)
def test_wrong_argument_is_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    assert main(line.split(" ")) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("relayctl: ")
    assert err.endswith(f"{message} --help\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "line", ["doctor -c results", "doctor -c result --column x", "doctor --sort-column ''"]
)
def test_unknown_column_is_an_error_that_lists_columns(
    capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert main(line.split()) == 1
    assert re.search(
        r"choose from '?check'?, '?result'?, '?finding'?, '?advice'?\); "
        r"(see|did you mean result\? See) relayctl doctor --help",
        capsys.readouterr().err,
    )


def test_invalid_width_in_the_environment_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIFF_MAX_TERM_WIDTH", "wide")
    assert main(["status"]) == 1
    assert capsys.readouterr().err == (
        "relayctl: CLIFF_MAX_TERM_WIDTH in the environment is not a number\n"
    )


def test_columns_are_accepted_in_any_case() -> None:
    _, shown = Relayctl().parse(["producers", "-c", "PID", "--sort-column", "Connected Seconds"])
    assert (shown.columns, shown.sort_columns) == (["pid"], ["connected_seconds"])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("info", "INFO"),
        ("Warn", "WARN"),
        ("warning", "WARN"),
        ("ERR", "ERROR"),
        ("crit", "CRITICAL"),
        ("Fatal", "CRITICAL"),
    ],
)
def test_usual_spellings_of_priorities_are_accepted(text: str, name: str) -> None:
    _, sent = Relayctl().parse(["send", "--event-type", "x", "--priority", text])
    _, shown = Relayctl().parse(["tail", "--priority", text, "--priority", "w*"])
    assert sent.priority == name
    assert shown.priority == [name, "W*"]
    assert filter_request(None, shown.priority, None)


@pytest.mark.parametrize(("name", "summary"), [(each, COMMANDS[each][1]) for each in COMMANDS])
def test_summary_is_the_first_line_of_the_help(name: str, summary: str) -> None:
    assert (CLASSES[name].__doc__ or "").partition("\n")[0] == f"{summary}."


def test_status_imports_no_other_command() -> None:
    code = (
        "import sys; from notif_relayctl.app import main; "
        "main(['--runtime-dir', '/nonexistent', 'status']); "
        "print(*(name for name in sys.modules if name.startswith('notif_relay')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    assert "notif_relayctl.commands" in loaded
    assert {name for name in loaded if name.startswith("notif_relayd.")} == {
        "notif_relayd.control",
        "notif_relayd.control.schema",
        "notif_relayd.errors",
        "notif_relayd.escaping",
        "notif_relayd.requirements",
    }
    assert not loaded & {"notif_relay.handler", "notif_relay.subscriber", "notif_relayctl.tail"}


@pytest.mark.parametrize("arguments", [["--help"], ["help", "status"], ["status"]])
def test_metadata_of_other_packages_is_not_read(arguments: list[str]) -> None:
    code = (
        "import importlib.metadata, sys; importlib.metadata.packages_distributions = None; "
        "from notif_relayctl.app import main; "
        f"sys.exit(main(['--runtime-dir', '/nonexistent', *{arguments}]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == (3 if arguments == ["status"] else 0), result.stderr


@pytest.mark.parametrize("arguments", [[], ["help"], ["-h"], ["--help"]])
def test_help_and_no_command_list_the_commands(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert set(NAMES) <= {line.split()[0] for line in out.splitlines() if line.startswith("  ")}
    assert err == ""


@pytest.mark.parametrize("command", NAMES)
@pytest.mark.parametrize("form", ["{} --help", "{} --flavour -h", "help {}", "--help {}"])
def test_each_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], command: str, form: str
) -> None:
    assert main(form.format(command).split()) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: relayctl {command} ")
    assert f"Example: relayctl {command} " in out
    assert err == ""


@pytest.mark.parametrize("line", EXAMPLES)
def test_documented_command_lines_are_accepted(line: str) -> None:
    words = shlex.split(line, comments=True)
    for operator in {"|", ">"} & set(words):
        words = words[: words.index(operator)]
    relayctl = Relayctl()
    command_class, name, arguments = relayctl.command_manager.find_command(words[1:])
    command_class(relayctl, None).get_parser(name).parse_args(
        arguments
    )  # exits if it is not accepted


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"relayctl {__version__}\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.999, "0:00:00"), (3661.0, "1:01:01"), (3 * 86400 + 59.9, "3 days, 0:00:59")],
)
def test_duration_is_readable_in_tables_exact_in_json(seconds: float, text: str) -> None:
    duration: FormattableColumn[float] = Duration(seconds)
    assert duration.human_readable() == text
    assert duration.machine_readable() == seconds


def test_unknown_user_or_group_is_shown_as_number() -> None:
    assert user_name(0) == pwd.getpwuid(0).pw_name
    assert user_name(UNUSED_ID) == group_name(UNUSED_ID) == str(UNUSED_ID)
