# SPDX-License-Identifier: Apache-2.0
"""Finds and checks the configuration files.

oslo.config ignores sections and options that it does not know, and reports an invalid value with
the name of the option on the command line. An ignored option of an access rule or an allow list
would permit more than the operator intends. The daemon therefore reads the files itself first, with
the parser of oslo.config. An error names the file, the section and the option.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import NamedTuple

from oslo_config import cfg

from notif_relayd.config_file import MAX_REFERENCES, BoundedOpts, ConfigFile, os_errors
from notif_relayd.daemon import options
from notif_relayd.daemon.access_options import ACCESS, rule_options
from notif_relayd.errors import StartError, nearest, one_line
from notif_relayd.settings import CONFIG_DIR, CONFIG_FILE, DEFAULT, NOTIFICATIONS, PROGRAM, RELAYD

FILE, DIRECTORY = "--config-file", "--config-dir"

MIN_ABBREVIATION = len("--config-f")
"""Length of the shortest abbreviation of these options that argparse accepts."""

FOREIGN = {(NOTIFICATIONS, each) for each in ("driver", "retry", "topics", "transport_url")}
"""Options, by section, that the daemon ignores: those of a section that is copied from the
configuration of a service."""

ENVIRONMENT = f"OS_{RELAYD.upper()}__"
"""Prefix of the environment variables that oslo.config reads for the section of the daemon."""

MAX_UNKNOWN = 5
"""Maximum number of further unknown sections and options that an error lists."""

MANUAL = f"see {PROGRAM}.conf(5)"

SELF_REFERENCE = "the value refers to itself"


@dataclass(frozen=True, slots=True)
class Sources:
    """The files and directories from which the configuration is read, as absolute paths."""

    named: Sequence[tuple[str, str]] = ()
    """The option `FILE` or `DIRECTORY` and its value, in the order of the command line."""

    def files(self) -> list[str]:
        """Return the files that exist now, in the order in which they are read.

        A default file or directory may be missing, one that an option names may not.

        Raises:
            StartError: a file or directory is missing or cannot be read.
        """
        given = {option for option, _ in self.named}
        defaults = [
            (option, path)
            for option, path in ((FILE, CONFIG_FILE), (DIRECTORY, CONFIG_DIR))
            if option not in given and _exists(path)
        ]
        files = []
        for option, path in (*defaults, *self.named):
            files += [path] if option == FILE else files_in(path)
        return files


def split(arguments: Iterable[str]) -> tuple[Sources, list[str]]:
    """Separate the options that name configuration files from the other arguments.

    Raises:
        StartError: an option has no value, or the path is relative to a directory that has been
            removed.
    """
    named, others = [], []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        option = _source_option(name)
        if option is None:
            others.append(word)
            continue
        path = value if equals else next(words, "")
        if not path:
            raise StartError(f"argument {option}: expected one argument; see {PROGRAM} --help")
        named.append((option, _absolute(os.path.expanduser(path))))
    return Sources(named), others


def _source_option(word: str) -> str | None:
    if len(word) >= MIN_ABBREVIATION:
        for option in (FILE, DIRECTORY):
            if option.startswith(word):
                return option
    return None


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise StartError(
            f"{path} is relative to a directory that cannot be used: {error.strerror}; use an "
            "absolute path"
        ) from error


def _exists(path: str) -> bool:
    """Return whether a default path exists; a link to a missing file does."""
    with os_errors(path):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def files_in(directory: str) -> list[str]:
    """Return the configuration files in a directory, in the order in which they are read.

    Raises:
        StartError: the directory cannot be read.
    """
    with os_errors(directory):
        names = os.listdir(directory)
    return [
        os.path.join(directory, name)
        for name in sorted(names)
        if name.endswith(".conf") and not name.startswith(".")
    ]


@dataclass(frozen=True, slots=True)
class Origins:
    """Names options in messages, with the file that sets them."""

    files: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The last file that sets an option, by section and option."""
    arguments: frozenset[str] = frozenset()
    """Options of the command line; they take precedence over files."""

    def __call__(self, section: str, option: str) -> str:
        """Return the name of an option for a message: ``[relayd] ring_size in FILE``."""
        name = f"[{section}] {option}"
        file = self.files.get((_normalized(section), option))
        prefix = "" if section == DEFAULT else f"{section}-"
        if file is None or f"--{prefix}{option}" in self.arguments:
            return name
        return f"{name} in {file}"

    def check_rules(self, names: Iterable[str]) -> None:
        """Check that each access rule in the files is in force.

        Args:
            names: the value of access_rules.

        Raises:
            StartError: there is a section of another rule.
        """
        listed = {f"{ACCESS}{name}".lower() for name in names}
        for (section, option), file in self.files.items():
            if section.startswith(ACCESS) and section not in listed:
                raise StartError(
                    f"[{section}] {option} in {file}: the rule is not in force: add its name to "
                    "access_rules in [relayd], or remove the section"
                )


def check(paths: Iterable[str], arguments: Sequence[str] = ()) -> Origins:
    """Read and check configuration files.

    Args:
        paths: the files, in the order in which they are read.
        arguments: the arguments of the command line that do not name configuration files.

    Raises:
        StartError: a file cannot be read, has an unknown section or option, or an invalid value.
    """
    files = [ConfigFile.read(path) for path in paths]
    known = _known_options()
    origins: dict[tuple[str, str], str] = {}
    unknown: list[_Unknown] = []
    for file in files:
        for section, values in file.sections.items():
            for option in _checked_section(file.path, section, values, known, unknown):
                origins[option] = file.path
    if unknown:
        raise _unknown_names(unknown)
    _check_values([file.path for file in files], origins)
    return Origins(origins, frozenset(word.partition("=")[0] for word in arguments))


@functools.cache
def log_options() -> list[tuple[str | None, list[cfg.Opt]]]:
    """Return the options of oslo.log."""
    (entry_point,) = entry_points(group="oslo.config.opts", name="oslo.log")
    found: list[tuple[str | None, list[cfg.Opt]]] = entry_point.load()()
    return found


def _file_options() -> list[tuple[str | None, list[cfg.Opt]]]:
    """Return the options that a file may contain, except for those of access rules."""
    own = [each for each in options.list_opts() if not (each[0] or "").startswith(ACCESS)]
    return [*own, (None, options.command_line_only()), *log_options()]


KnownOptions = dict[str, dict[str, tuple[str, str]]]
"""Section and name of each option, by the section and each name that oslo.config accepts."""


def _known_options() -> KnownOptions:
    known: KnownOptions = {}
    for group, opts in _file_options():
        section = group or DEFAULT
        for opt in opts:
            names = [(section, opt.dest)]
            for old in opt.deprecated_opts:
                names.append((old.group or section, old.name or opt.dest))
            for old_section, name in names:
                in_section = known.setdefault(_normalized(old_section), {})
                in_section.setdefault(name, (section, opt.dest))
    return known


class _Unknown(NamedTuple):
    """A section or an option that the daemon does not know."""

    name: str
    path: str
    reason: str


def _unknown_names(found: Sequence[_Unknown]) -> StartError:
    """Return an error for the first unknown name that also lists the others."""
    first, *others = found
    message = f"{first.name} in {first.path}: {first.reason}"
    if not others:
        return StartError(message)
    names = [
        each.name if each.path == first.path else f"{each.name} in {each.path}"
        for each in others[:MAX_UNKNOWN]
    ]
    if len(others) > MAX_UNKNOWN:
        names.append(f"{len(others) - MAX_UNKNOWN} more")
    separator = " Also" if message.endswith("?") else "; also"
    return StartError(f"{message}{separator} unknown: {', '.join(names)}")


def _checked_section(
    path: str,
    section: str,
    values: Iterable[str],
    known: KnownOptions,
    unknown: list[_Unknown],
) -> list[tuple[str, str]]:
    """Return section and current name of the options in a section; add to `unknown`."""
    normalized = _normalized(section)
    if normalized.startswith(ACCESS):
        names = {opt.dest: (normalized, opt.dest) for opt in rule_options()}
    else:
        names = known.get(normalized, {})
    if not names:
        advice = _suggestion(section, known)
        unknown.append(_Unknown(f"[{section}]", path, f"unknown section; {advice}"))
        return []
    found = []
    for option in values:
        if option in names:
            found.append(names[option])
        elif (normalized, option) not in FOREIGN:
            homes = [each[option][0] for each in known.values() if option in each]
            advice = f"it belongs in [{homes[0]}]" if homes else _suggestion(option, names)
            name = f"[{section}] {option}"
            unknown.append(_Unknown(name, path, f"unknown option; {advice}"))
    return found


def check_environment() -> None:
    """Check that each variable for the section of the daemon names an option.

    Raises:
        StartError: one does not.
    """
    variables = {ENVIRONMENT + option.upper() for option in _known_options()[RELAYD]}
    for variable in os.environ:
        if variable.startswith(ENVIRONMENT) and variable not in variables:
            advice = _suggestion(variable, variables)
            raise StartError(f"{variable} in the environment: unknown option; {advice}")


def _suggestion(name: str, known: Iterable[str]) -> str:
    meant = nearest(name, known)
    return f"did you mean {meant}?" if meant else f"remove it, or {MANUAL}"


def _normalized(section: str) -> str:
    """Return the name by which oslo.config knows a section."""
    return section if section == DEFAULT else section.lower()


def _check_values(paths: Sequence[str], origins: Mapping[tuple[str, str], str]) -> None:
    """Check the values in the files, which refer to each other as ``$option``.

    Args:
        paths: the files.
        origins: the last file that sets an option, by section and option.

    Raises:
        StartError: a value is invalid.
    """
    conf = BoundedOpts(MAX_REFERENCES)
    for group, opts in _file_options():
        conf.register_opts(opts, group=group)
    for section in {section for section, _ in origins}:
        if section.startswith(ACCESS):
            conf.register_opts(rule_options(), group=section)
    with _without_warnings(), _parse_errors():
        conf(
            [],
            project=PROGRAM,
            prog=PROGRAM,
            default_config_files=list(paths),
            default_config_dirs=[],
            use_env=False,
        )
        for (section, option), file in origins.items():
            values = conf if section == DEFAULT else conf[section]
            try:
                if values[option] is not None:
                    continue
                reason = "a number has no value"
            except RecursionError:
                reason = SELF_REFERENCE
            except (cfg.Error, ValueError) as error:
                reason = one_line(error).rpartition("is not valid: ")[2]
                if isinstance(error, cfg.NoSuchOptError) and error.opt_name in values:
                    reason = SELF_REFERENCE  # In [DEFAULT], oslo.config hides the RecursionError.
            raise StartError(
                f"[{section}] {option} in {file}: {reason}; correct the value, {MANUAL}"
            ) from None


@contextlib.contextmanager
def _parse_errors() -> Iterator[None]:
    """Turn errors of a file that has changed since it was read into `StartError`."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"cannot read the configuration: {one_line(error)}") from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress warnings about deprecated options, which the daemon's own parsing repeats."""
    logger = logging.getLogger("oslo_config.cfg")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
