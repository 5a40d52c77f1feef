#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generate the completions of all programs for bash, zsh and fish with shtab.

"make completions" runs this script. The results are files of the package notif_relayctl, because
shtab supports fish only in versions that distributions do not have yet, and because a completion
that starts Python for each key would be slow.
"""

# ruff: noqa: SLF001 - argparse has no public list of options

import argparse
import copy
import re
from collections.abc import Callable

import shtab
from cliff.command import Command
from oslo_config import cfg
from oslo_log import log

from notif_relay.priorities import PRIORITIES
from notif_relayctl.app import Relayctl
from notif_relayctl.command_table import COMMANDS
from notif_relayctl.complete import DIRECTORY, SHELLS
from notif_relayctl.formats import FORMATS
from notif_relayd.daemon import options
from notif_relayd.settings import PROGRAM
from notif_relayd_bridge.configuration import PROGRAM as BRIDGE
from notif_relayd_bridge.options import command_line

NAMES = " ".join(PRIORITIES)

PREAMBLES = {
    "bash": f"""\
_notif_relay_files() {{ compgen -f -- "$1"; }}
_notif_relay_dirs() {{ compgen -d -- "$1"; }}
_notif_relay_users() {{ compgen -u -- "$1"; }}
_notif_relay_groups() {{ compgen -g -- "$1"; }}
_notif_relay_priorities() {{ compgen -W "{NAMES}" -- "${{1^^}}"; }}
""",
    "fish": "",
    "zsh": f"""\
_notif_relay_priorities() {{ compadd "$@" -M "m:{{a-z}}={{A-Z}}" -- {NAMES} }}
""",
}
"""Functions that complete a value; shtab's own for bash split a path at spaces."""

USERS = {"bash": "_notif_relay_users", "zsh": "_users", "fish": "(__fish_complete_users)"}
GROUPS = {"bash": "_notif_relay_groups", "zsh": "_groups", "fish": "(__fish_complete_groups)"}
FILES = {**shtab.FILE, "bash": "_notif_relay_files"}
DIRECTORIES = {**shtab.DIRECTORY, "bash": "_notif_relay_dirs"}

VALUES = {
    "DIR": DIRECTORIES,
    "FILE": FILES,
    "GROUP": GROUPS,
    "GROUPS": GROUPS,
    "LOG_DIR": DIRECTORIES,
    "PATH": FILES,
    "USER": USERS,
    "USERS": USERS,
}
"""Completion of a value, by its name in the help."""

PRIORITY = {"bash": "_notif_relay_priorities", "zsh": "_notif_relay_priorities", "fish": NAMES}

CHOICES = {"FORMAT": FORMATS, "MODE": ("0600", "0660", "0666"), "cmd": tuple(COMMANDS)}
"""Values that shtab does not find, by their name in the help, or else by their attribute."""

# With "=" between an option and its value, bash splits the argument into three words.
BASH_EQUALS = """\
_{name}() {{
  local line word words=() index=-1 current=$COMP_CWORD
  for word in "${{COMP_WORDS[@]}}"; do
    ((index += 1))
    if [[ $word != = || ${{words[-1]-}} != --* ]]; then
      words+=("$word")
    elif ((index == COMP_CWORD)); then
      words+=("")
    elif ((index < COMP_CWORD)); then
      ((current -= 1))
    fi
  done
  local COMP_WORDS=("${{words[@]}}") COMP_CWORD=$current
  _shtab_{name} "$@"
}}

complete -o bashdefault -F _{name} {program}
"""


def relayctl() -> argparse.ArgumentParser:
    """Return the parser of relayctl with those of its commands, which cliff keeps apart."""
    app = Relayctl()
    parser = app.parser
    anywhere = [each for each in parser._actions if each.dest in {"runtime_dir", "control_path"}]

    def command_parser(prog: str, **_: object) -> argparse.ArgumentParser:
        name = prog.rpartition(" ")[2]
        command_class: type[Command] = app.command_manager.find_command([name])[0]
        command = command_class(app, None).get_parser(prog)
        for action in anywhere:
            command._add_action(copy.copy(action))
        return command

    commands = parser.add_subparsers(metavar="COMMAND", parser_class=command_parser)
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary).description = summary
    return parser


def notif_relayd() -> argparse.ArgumentParser:
    """Return the parser of the daemon."""
    conf = cfg.ConfigOpts()
    options.register(conf)
    return _parser(conf, PROGRAM)


def notif_relayd_bridge() -> argparse.ArgumentParser:
    """Return the parser of the bridge."""
    conf = cfg.ConfigOpts()
    conf.register_cli_opts(command_line())
    return _parser(conf, BRIDGE)


def _parser(conf: cfg.ConfigOpts, program: str) -> argparse.ArgumentParser:
    log.register_options(conf)
    conf([], project=program, version="0", default_config_files=[], default_config_dirs=[])
    parser: argparse.ArgumentParser = conf._oparser
    parser.prog = program
    for action in parser._actions:
        if action.dest == "shell_completion":  # An option of oslo.config that does not work.
            action.help = argparse.SUPPRESS
    return parser


def add_values(parser: argparse.ArgumentParser, shell: str) -> None:
    """Tell shtab how to complete the values of options and operands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                add_values(command, shell)
            continue
        name = action.metavar or action.dest
        if action.dest == "priority":
            action.complete = PRIORITY
        elif name in VALUES:
            action.complete = VALUES[name]
        elif name in CHOICES:
            action.choices = CHOICES[name]
        # The first clause is enough, and contains no default that depends on this host.
        action.help = action.help and re.split(r"; |\. | \(", action.help)[0]
        if shell == "zsh" and action.nargs != 0:
            adapt_to_zsh(action, name)


def adapt_to_zsh(action: argparse.Action, name: str) -> None:
    """Change an argument with a value so that shtab's notation of it is right in zsh."""
    action.metavar = name.replace(":", r"\:")
    if not action.option_strings and not action.choices:
        # Without a list of values, zsh would complete no options either.
        action.complete = {"zsh": "( )"}
    # The value of a long option may also follow after "=".
    action.option_strings = [
        f"{option}=" if option.startswith("--") else option for option in action.option_strings
    ]


def script(make_parser: Callable[[], argparse.ArgumentParser], shell: str) -> str:
    """Return the completion of one program for one shell."""
    parser = make_parser()
    add_values(parser, shell)
    text: str = shtab.complete(parser, shell, preamble=PREAMBLES[shell])
    name = parser.prog.replace("-", "_")
    if shell == "bash":
        # Other versions of shtab generate global functions of the same names.
        text = re.sub(r"\b_set_(parser_defaults|new_action)\b", rf"_{name}_\1", text)
        text = text.replace("_shtab_replace_nonword", f"_{name}_replace_nonword")
        registration = f"complete -o bashdefault -F _shtab_{name} {parser.prog}"
        text = text.replace(registration, BASH_EQUALS.format(name=name, program=parser.prog))
    return "# SPDX-License-Identifier: MPL-2.0\n" + text if shell != "zsh" else text


def main() -> None:
    """Write all completions."""
    for make_parser in (relayctl, notif_relayd, notif_relayd_bridge):
        for shell in SHELLS:
            path = DIRECTORY / f"{make_parser.__name__.replace('_', '-')}.{shell}"
            path.write_text(script(make_parser, shell))


if __name__ == "__main__":
    main()
