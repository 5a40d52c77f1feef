# SPDX-License-Identifier: Apache-2.0
"""The configuration of the relay: that of the running daemon, or what a start would use.

The daemon's command line, proc(5), names its configuration files and may set further options.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from oslo_config import cfg

from notif_relay import paths
from notif_relay.connection import checked_path
from notif_relayctl.access import AS_ROOT
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayctl.instances import instance_of
from notif_relayd.config_file import BoundedOpts, ConfigFile
from notif_relayd.daemon import config_files, options
from notif_relayd.errors import StartError, one_line, usage_errors
from notif_relayd.settings import CONFIG_FILE, DEFAULT, NOTIFICATIONS, PROGRAM, RELAYD

MODULE = PROGRAM.replace("-", "_")


@dataclass(frozen=True, slots=True)
class _CommandLine:
    sources: config_files.Sources
    arguments: Sequence[str]

    @property
    def file(self) -> str:
        """The first file or directory that is named, or the default file."""
        return next((path for _, path in self.sources.named if path != os.devnull), CONFIG_FILE)


def configuration_of(
    runtime_dir: str, config_file: str | None, pid: int | None
) -> tuple[options.Settings, Finding]:
    """Return the settings of the daemon, or its defaults if the configuration is unusable.

    Args:
        runtime_dir: directory of the sockets. If it is the default, the configuration may replace
            it.
        config_file: configuration of the daemon; `None` for the default.
        pid: the running daemon, whose command line decides unless `config_file` is given.
    """
    arguments = [] if runtime_dir == paths.RUNTIME_DIR else ["--runtime-dir", runtime_dir]
    line = _CommandLine(_sources(config_file, instance_of(runtime_dir)), arguments)
    if config_file is None and pid is not None:
        line = _running(pid) or line
    check = f"configuration {line.file}"
    try:
        files = line.sources.files()
        settings = _parsed(line.arguments, files)
        for plan in (settings.public, settings.ingest, settings.control):
            checked_path(plan.path)
        relative = _relative_paths(files)
    except (cfg.Error, StartError, OSError, ValueError) as error:
        if isinstance(error.__cause__, PermissionError):
            result = SKIPPED
            finding = f"you may not read it, so the defaults are assumed; {AS_ROOT}"
        else:
            result, finding = FAILED, f"the daemon cannot use it: {one_line(error)}"
    else:
        if relative:
            finding = f"{relative[0]} is relative: the place of the socket depends on the working "
            finding += "directory of the daemon"
            return settings, Finding(check, WARNING, finding, "set an absolute path")
        finding = "the daemon can use it" if files else "it does not exist, so the defaults apply"
        return settings, Finding(check, OK, finding)
    advice = "" if result == SKIPPED else f"correct it; {PROGRAM} --help lists all options"
    return _parsed(arguments, []), Finding(check, result, finding, advice)


def _sources(config_file: str | None, instance: str | None) -> config_files.Sources:
    if config_file is None and instance is not None:
        # As in notif-relayd@.service.
        directory = os.path.join(os.path.dirname(CONFIG_FILE), instance)
        named = [(config_files.FILE, os.devnull), (config_files.DIRECTORY, directory)]
        return config_files.Sources(named if os.path.isdir(directory) else named[:1])
    if config_file is None:
        return config_files.Sources()
    named = [(config_files.FILE, config_file)]
    if os.path.isdir(f"{config_file}.d"):
        named.append((config_files.DIRECTORY, f"{config_file}.d"))
    return config_files.Sources(named)


def _running(pid: int) -> _CommandLine | None:
    """Return the command line of the daemon; `None` if it is unknown."""
    try:
        with open(f"/proc/{pid}/cmdline", errors="surrogateescape") as file:
            words = file.read().split("\0")[:-1]
        names = [os.path.basename(word) for word in words]
        program = next(index for index, name in enumerate(names) if name in (PROGRAM, MODULE))
        line = _CommandLine(*config_files.split(words[program + 1 :]))
        # A relative path may refer to a directory that is no longer known.
        found = all(map(os.path.exists, line.sources.files()))
    except (OSError, StopIteration, StartError):
        return None
    return line if found else None


def _relative_paths(files: Sequence[str]) -> list[str]:
    """Return the paths of sockets in the configuration that are relative, as ``OPTION = PATH``."""
    sections = [ConfigFile.read(file).sections for file in files]
    return [
        f"{option} = {value}"
        for section, option in (
            (DEFAULT, "runtime-dir"),
            (DEFAULT, "runtime_dir"),
            (NOTIFICATIONS, "sock_path"),
            *((RELAYD, f"{name}_path") for name in ("ingest", "control")),
        )
        for each in sections
        for value in each.get(section, {}).get(option, [])
        if not value.startswith(("/", "$"))
    ]


def _parsed(arguments: Sequence[str], files: list[str]) -> options.Settings:
    origins = config_files.check(files)
    conf = BoundedOpts()
    options.register(conf)
    for group, opts in config_files.log_options():
        conf.register_cli_opts(opts, group=group)
    with usage_errors(StartError, arguments, conf.print_help):
        conf(
            arguments,
            project=PROGRAM,
            prog=PROGRAM,
            default_config_files=files,
            default_config_dirs=[],
        )
    settings = options.settings(conf, origins)
    origins.check_rules(conf[RELAYD].access_rules)
    return settings
