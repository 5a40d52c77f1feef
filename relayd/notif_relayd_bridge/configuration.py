# SPDX-License-Identifier: Apache-2.0
"""Reads the command line and the configuration file of one bridge.

oslo.config ignores sections and options that it does not know. A misspelt filter would send more
than the operator intends. Therefore the file is also read without oslo.config's options, and an
unknown section or option is an error. A message names the file, the section and the option. It
contains no value of an option that may contain a password.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from oslo_config import cfg
from oslo_log import log

from notif_relay.connection import checked_path
from notif_relay.errors import BadFilter
from notif_relay.group import MAX_GROUP_NAME, checked_membership
from notif_relay.paths import DEFAULT_INGEST_PATH, DEFAULT_PUBLIC_PATH
from notif_relay.payload_pattern import PayloadPattern
from notif_relay.request import filter_request
from notif_relay.version import __version__
from notif_relayd.config_file import BoundedOpts, ConfigFile
from notif_relayd.errors import StartError as FileError
from notif_relayd.errors import nearest, one_line, see_help, usage_errors
from notif_relayd.escaping import printable
from notif_relayd_bridge.brokers.schemes import SCHEMES, Scheme
from notif_relayd_bridge.brokers.source import Selection
from notif_relayd_bridge.errors import StartError
from notif_relayd_bridge.options import (
    BRIDGE,
    bridge_options,
    command_line,
    inbound_options,
    outbound_options,
)
from notif_relayd_bridge.status import default_path

PROGRAM = "notif-relayd-bridge"

DEFAULT = "DEFAULT"

STATE_DIRECTORY = "/var/lib/notif-relayd-bridge"
"""Directory of the spools, if the configuration does not name another file."""

GROUP_PREFIX = "bridge:"

MAX_BROKER_NAME = 200
"""Maximum number of characters of a topic, a pool or an exchange."""

_is_broker_name = re.compile(rf"[!-~]{{1,{MAX_BROKER_NAME}}}").fullmatch

_is_name = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_GROUP_NAME - len(GROUP_PREFIX)}}}").fullmatch


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """The options of the spool."""

    path: str
    max_bytes: int
    max_age: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a bridge from a relay to a broker requests from the relay."""

    path: str
    group: str
    window: int
    hold: float
    event_type: list[str] | None = None
    priority: list[str] | None = None
    publisher_id: list[str] | None = None
    payload: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Outbound:
    """A bridge from a relay to a broker."""

    subscription: Subscription
    spool: SpoolSettings


@dataclass(frozen=True, slots=True)
class Inbound:
    """A bridge from a broker to a relay."""

    selection: Selection
    path: str
    """Path of the relay's private socket."""
    max_record_size: int


@dataclass(frozen=True, slots=True)
class Settings:
    """The validated configuration of a bridge."""

    name: str
    direction: Outbound | Inbound
    scheme: Scheme
    url: str = field(repr=False)
    """URL of the broker, with credentials."""
    conf: cfg.ConfigOpts = field(repr=False)
    """The options of the broker and of the log."""
    status_socket: str | None = None
    check: bool = False
    once: bool = False

    def secrets(self) -> list[str]:
        """Return the values of the broker's options that are secret."""
        return [
            str(self.conf[section][opt.dest])
            for section, opts in _broker_options(self.scheme, isinstance(self.direction, Inbound))
            for opt in opts
            if opt.secret and self.conf[section][opt.dest]
        ]


def load(arguments: Sequence[str]) -> Settings:
    """Return the settings for a command line.

    Raises:
        StartError: an argument, the file or one of its options is invalid.
        SystemExit: an option such as ``--help`` has been handled.
    """
    path = _config_file(arguments)
    conf = _options()
    if path is None:
        _parse(conf, arguments)  # Handles --help.
        raise StartError(see_help("--config-file is missing", PROGRAM))
    name = _name(path)
    try:
        sections = ConfigFile.read(path).sections
    except FileError as error:
        raise StartError(str(error)) from None
    scheme, is_inbound = _direction(path, sections)
    broker_options = _broker_options(scheme, is_inbound)
    for section, opts in broker_options:
        conf.register_opts(opts, group=section)
    given = _check_sections(path, sections, broker_options, is_inbound)
    _parse(conf, arguments)
    if [_absolute(each) for each in conf.config_file] != [path] or conf.config_dir:
        raise StartError("a bridge has one configuration file: pass one --config-file")
    _check_values(path, conf, given)
    return Settings(
        name=name,
        direction=_inbound(path, name, conf) if is_inbound else _outbound(path, name, conf),
        scheme=scheme,
        url=(conf[BRIDGE].source if is_inbound else conf[BRIDGE].target).strip(),
        conf=conf,
        check=conf.check,
        once=conf.once,
        status_socket=_status_socket(path, name, conf[BRIDGE].status_socket),
    )


def _broker_options(scheme: Scheme, is_inbound: bool) -> list[tuple[str, list[cfg.Opt]]]:
    return scheme.source_options() if is_inbound else scheme.options()


def _config_file(arguments: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-file")
    try:
        path: str | None = parser.parse_known_args(arguments)[0].config_file
    except argparse.ArgumentError:
        return None  # oslo.config reports it.
    return None if path is None else _absolute(path)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _options() -> cfg.ConfigOpts:
    conf = BoundedOpts()
    conf.register_opts(bridge_options(), group=BRIDGE)
    conf.register_opts(outbound_options(), group=BRIDGE)
    conf.register_opts(inbound_options(), group=BRIDGE)
    conf.register_cli_opts(command_line())
    log.register_options(conf)
    return conf


def _parse(conf: cfg.ConfigOpts, arguments: Sequence[str]) -> None:
    try:
        with usage_errors(
            lambda message: StartError(see_help(message, PROGRAM)), arguments, conf.print_help
        ):
            conf(
                list(arguments),
                project=PROGRAM,
                prog=PROGRAM,
                version=__version__,
                description="Sends the notifications of this host's relay to a message broker, or "
                "those of a broker to the relay.",
                default_config_files=[],
                default_config_dirs=[],
                use_env=False,
            )
    except (cfg.Error, OSError, ValueError) as error:
        raise StartError(one_line(error)) from None


def _name(path: str) -> str:
    name, extension = os.path.splitext(os.path.basename(path))
    if extension != ".conf" or not _is_name(name):
        raise StartError(
            f"{path}: the name of the file must be NAME.conf, where NAME is the name of the "
            f"bridge, 1 to {MAX_GROUP_NAME - len(GROUP_PREFIX)} characters of A-Z, a-z, 0-9 and ._-"
        )
    return name


def _direction(path: str, sections: dict[str, dict[str, list[str]]]) -> tuple[Scheme, bool]:
    """Return the scheme of the broker, and whether the bridge reads from it."""
    urls = next((each for name, each in sections.items() if name.lower() == BRIDGE), {})
    source, target = (urls.get(name, [""])[-1].strip() for name in ("source", "target"))
    known = ", ".join(f"{each}://" for each in SCHEMES)
    from_broker, to_broker = SCHEMES.get(_scheme(source)), SCHEMES.get(_scheme(target))
    if from_broker and to_broker:
        problem = "source and target are brokers; one of the two must be unix:// or not set"
        raise StartError(f"[{BRIDGE}] in {path}: {problem}")
    if from_broker:
        return from_broker, True
    if to_broker:
        return to_broker, False
    if not target:
        problem = f"not set; set a URL with one of {known}"
        raise StartError(f"[{BRIDGE}] target in {path}: {problem}")
    if _scheme(target) == "unix":
        # Also if the source is not set, so that it would be a relay.
        problem = f"the target is a relay, so the URL must begin with one of {known}"
        raise StartError(f"[{BRIDGE}] source in {path}: {problem}")
    raise StartError(f"[{BRIDGE}] target in {path}: the URL must begin with one of {known}")


def _scheme(url: str) -> str:
    name, separator, _ = url.partition("://")
    return name if separator else ""


def _check_sections(
    path: str,
    sections: dict[str, dict[str, list[str]]],
    broker_options: list[tuple[str, list[cfg.Opt]]],
    is_inbound: bool,
) -> list[tuple[str, str]]:
    """Return the section and name of each option in the file, without those of the log.

    Raises:
        StartError: a section or an option is unknown, or belongs to the other direction.
    """
    directions = [outbound_options(), inbound_options()]
    own, other = reversed(directions) if is_inbound else directions
    known: dict[str, set[str]] = {BRIDGE: {opt.dest for opt in [*bridge_options(), *own]}}
    log_options = cfg.ConfigOpts()
    log.register_options(log_options)
    known[DEFAULT] = set(log_options)
    for section, opts in broker_options:
        names = {opt.dest for opt in opts}
        names |= {old.name or opt.dest for opt in opts for old in opt.deprecated_opts}
        known.setdefault(section, set()).update(names)
    found = []
    for section, options in sections.items():
        normalized = section if section == DEFAULT else section.lower()
        if normalized not in known:
            advice = _suggestion(section, known)
            raise StartError(f"[{section}] in {path}: unknown section; {advice}")
        for option in options:
            if normalized == BRIDGE and option in {opt.dest for opt in other}:
                problem = "it is for bridges in the other direction; remove it"
                raise StartError(f"[{section}] {option} in {path}: {problem}")
            if option not in known[normalized]:
                advice = _suggestion(option, known[normalized])
                raise StartError(f"[{section}] {option} in {path}: unknown option; {advice}")
            found.append((normalized, option))
    return found


def _suggestion(name: str, known: Iterable[str]) -> str:
    meant = nearest(name, known)
    return f"did you mean {meant}?" if meant else "remove it"


def _check_values(path: str, conf: cfg.ConfigOpts, given: Iterable[tuple[str, str]]) -> None:
    for section, option in given:
        values = conf if section == DEFAULT else conf[section]
        if option not in values:
            continue  # A deprecated name.
        try:
            value = values[option]
            if value is not None and not _is_nan_or_infinite(value):
                continue
            reason = "the value is missing" if value is None else "it must be a finite number"
        except (cfg.Error, ValueError, RecursionError) as error:
            # The value may be a secret, except for options of this module.
            reason = "the value is invalid"
            if isinstance(error, RecursionError):
                reason = "the value refers to itself"
            elif section in {BRIDGE, DEFAULT} and option not in {"source", "target"}:
                reason = one_line(error).rpartition("is not valid: ")[2]
        raise StartError(f"[{section}] {option} in {path}: {reason}; correct the value")


def _is_nan_or_infinite(value: object) -> bool:
    """Return whether a value is NaN or infinite, which no limit of an option excludes."""
    return isinstance(value, float) and not math.isfinite(value)


def _outbound(path: str, name: str, conf: cfg.ConfigOpts) -> Outbound:
    options = conf[BRIDGE]
    spool = options.spool or os.path.join(STATE_DIRECTORY, f"{name}.sqlite")
    if not os.path.isabs(spool):
        raise StartError(f"[{BRIDGE}] spool in {path}: must be an absolute path, not {spool!r}")
    return Outbound(
        _subscription(path, name, conf),
        SpoolSettings(spool, options.spool_max_bytes, options.spool_max_age),
    )


def _inbound(path: str, name: str, conf: cfg.ConfigOpts) -> Inbound:
    options = conf[BRIDGE]
    pool = options.pool or f"{PROGRAM}-{name}"
    for option, values in {
        "pool": [pool],
        "topics": options.topics,
        "exchanges": options.exchanges,
    }.items():
        for value in values:
            if not _is_broker_name(value):
                problem = f"{printable(value[:MAX_BROKER_NAME])} is no valid name"
                raise StartError(f"[{BRIDGE}] {option} in {path}: {problem}; correct the value")
    return Inbound(
        Selection(pool, tuple(options.topics), tuple(options.exchanges)),
        _socket(path, "target", options.target, DEFAULT_INGEST_PATH),
        options.max_record_size,
    )


def _status_socket(path: str, name: str, given: str | None) -> str | None:
    if given and not os.path.isabs(given):
        problem = f"must be an absolute path, not {given!r}"
        raise StartError(f"[{BRIDGE}] status_socket in {path}: {problem}")
    socket = given or default_path(name)
    try:
        return None if socket is None else checked_path(socket)
    except ValueError as error:
        raise StartError(f"[{BRIDGE}] status_socket in {path}: {error}") from None


def _subscription(path: str, name: str, conf: cfg.ConfigOpts) -> Subscription:
    options = conf[BRIDGE]
    subscription = Subscription(
        path=_socket(path, "source", options.source, DEFAULT_PUBLIC_PATH),
        group=options.group or f"{GROUP_PREFIX}{name}",
        window=options.window,
        hold=options.hold,
        event_type=options.event_type or None,
        priority=options.priority or None,
        publisher_id=options.publisher_id or None,
    )
    try:
        if options.payload:
            pattern = PayloadPattern.from_text(options.payload)
            subscription = replace(subscription, payload=pattern.to_json())
        membership = checked_membership(
            subscription.group, subscription.window, subscription.hold, False
        )
        filter_request(
            *(subscription.event_type, subscription.priority, subscription.publisher_id),
            membership,
            subscription.payload,
        )
    except (BadFilter, TypeError, ValueError) as error:
        raise StartError(f"[{BRIDGE}] in {path}: {one_line(error)}; correct the value") from None
    return subscription


def _socket(path: str, option: str, url: str | None, default: str) -> str:
    # The URL of a broker would contain a password, so the value is not quoted.
    name, separator, socket = (url or "").strip().partition("://")
    if url is None or not url.strip():
        socket = default
    elif not separator or name != "unix" or not socket.startswith("/"):
        raise StartError(
            f"[{BRIDGE}] {option} in {path}: must be unix:// and an absolute path, as in "
            f"unix://{default}"
        )
    try:
        return checked_path(socket)
    except ValueError as error:
        raise StartError(f"[{BRIDGE}] {option} in {path}: {error}") from None
