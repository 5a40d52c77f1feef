# SPDX-License-Identifier: Apache-2.0
"""The completions contain every option and value; "make completions" generates them again."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from oslo_config import cfg

from notif_relayctl.app import Relayctl, main
from notif_relayctl.complete import DIRECTORY, PROGRAMS, SHELLS
from notif_relayd.daemon import options
from notif_relayd.errors import options_in
from notif_relayd_bridge.options import command_line


def options_of_relayctl() -> dict[str, set[str]]:
    """Return the options by command; an empty name stands for the global ones."""
    app = Relayctl()
    own = set(options_in(app.parser.print_help))
    found = {"": own}
    for name, entry in app.command_manager:
        parser = entry.load()(app, None).get_parser(name)
        found[name] = {*options_in(parser.print_help), *own} - {"--version"}
    return found


def options_of_the_daemon() -> set[str]:
    conf = cfg.ConfigOpts()
    options.register(conf)
    conf([], project="x", default_config_files=[], default_config_dirs=[])
    return {*options_in(conf.print_help), "--log-file"} - {"--shell_completion"}


def in_file(program: str, shell: str) -> set[str]:
    text = (DIRECTORY / f"{program}.{shell}").read_text()
    names: Iterable[str] = re.findall(r" -l ([\w-]+)" if shell == "fish" else r"--([\w-]+)", text)
    return {f"--{name}" for name in names}


def test_bash_completes_the_options_of_each_command() -> None:
    script = (DIRECTORY / "relayctl.bash").read_text()
    lists = re.findall(r"^_shtab_relayctl_?(\w*)_option_strings=\((.*)\)$", script, re.MULTILINE)
    completed = {name: set(words.split()) for name, words in lists}
    assert completed.keys() == options_of_relayctl().keys()
    found = options_of_relayctl()
    missing = {name: left for name in found if (left := found[name] - completed[name])}
    assert not missing, f'run "make completions": {missing}'


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_is_completed_in_all_shells(shell: str) -> None:
    missing = set().union(*options_of_relayctl().values()) - in_file("relayctl", shell)
    missing |= options_of_the_daemon() - in_file("notif-relayd", shell)
    bridge = {f"--{each.name}" for each in command_line()} | {"--config-file"}
    missing |= bridge - in_file("notif-relayd-bridge", shell)
    assert not missing, f'run "make completions": {missing}'


@pytest.mark.parametrize("program", PROGRAMS)
def test_complete_prints_the_file_of_the_shell(
    capsys: pytest.CaptureFixture[str], program: str
) -> None:
    for shell in SHELLS:
        assert main(["complete", "--name", program, "--shell", shell]) == 0
        assert capsys.readouterr().out == (DIRECTORY / f"{program}.{shell}").read_text()
    main(["complete"])
    assert capsys.readouterr().out == (DIRECTORY / "relayctl.bash").read_text()
