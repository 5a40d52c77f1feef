# SPDX-License-Identifier: Apache-2.0
"""Check the bridges that are configured on this host.

The bridge is a program of its own, which relayctl does not import. So only the options are read
that the checks need; ``notif-relayd-bridge --check`` checks all of them. Findings quote no value
that may contain a password.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from oslo_config import cfg

from notif_relay import paths
from notif_relayctl.access import (
    AS_ROOT,
    PRODUCE,
    READ,
    SEARCH,
    SUBSCRIBE,
    WRITE,
    belongs_to_relay,
    is_socket,
    refusal,
)
from notif_relayctl.accounts import Account, account
from notif_relayctl.bridges.client import (
    MAX_BRIDGES,
    NO_PERMISSION,
    NOT_RUNNING,
    STATUS_SOCKET,
    Problem,
    query,
)
from notif_relayctl.bridges.schema import BridgeStatus
from notif_relayctl.doctor import rights
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayctl.doctor.host import Host
from notif_relayctl.units import count
from notif_relayd.config_file import BoundedOpts, ConfigFile
from notif_relayd.errors import StartError
from notif_relayd.settings import CONFIG_FILE

STATE_DIRECTORY = "/var/lib/notif-relayd-bridge"
"""Directory of the spools; the unit creates it."""

ANOTHER_SPOOL = f"leave it as it is, and set spool to a file in {STATE_DIRECTORY}"
"""Advice about a directory that is not the bridge's own."""

PROGRAM = USER = "notif-relayd-bridge"

BROKERS = ("rabbit", "kafka", "nats")
"""The schemes of the URL of a broker."""

NEARLY_FULL = 0.8
"""Share of the maximum size of a spool from which it is nearly full, as in the alert."""

ANYBODY = Account("any user", 2**32 - 2, frozenset())
"""A user that is no member of any group; chown(2) cannot give a file to its number minus 1."""

_URL_WITH_LOGIN = re.compile(r"://[^/]*@")
_SECRET = re.compile(r"password|secret|token|seed_str|\.pem$")
"""Names of options whose values are secret."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files of the bridges are."""

    configurations: str
    """Directory with one NAME.conf for each bridge."""
    sockets: str
    """Directory with the directories of the status sockets."""


@dataclass(frozen=True, slots=True)
class _Configuration:
    name: str
    path: str
    broker: str
    is_inbound: bool
    relay: str
    """The socket of the relay."""
    spool: str
    status: str
    """The status socket."""
    is_exposed: bool
    """Whether the file contains credentials and every user can read it."""

    @property
    def check(self) -> str:
        return f"bridge {self.name}"

    @property
    def unit(self) -> str:
        return f"{PROGRAM}@{self.name}.service"


def examine(host: Host, places: Places) -> Iterator[Finding]:
    """Check all bridges that have a configuration.

    Args:
        host: the relay and its sockets.
        places: where the files are.
    """
    try:
        names = sorted(each for each in os.listdir(places.configurations) if each.endswith(".conf"))
    except FileNotFoundError:
        return
    except OSError as error:
        finding = f"cannot read {places.configurations}: {error.strerror}"
        yield Finding("bridges", SKIPPED, finding, AS_ROOT)
        return
    if len(names) > MAX_BRIDGES:
        finding = f"{places.configurations} has more than {MAX_BRIDGES} files"
        yield Finding("bridges", SKIPPED, f"{finding}, and only the first ones are checked")
    usable = []
    for name in names[:MAX_BRIDGES]:
        found = _read(os.path.join(places.configurations, name), places)
        if isinstance(found, Finding):
            yield found
        else:
            usable.append(found)
    answers = query([each.status for each in usable])
    for each in usable:
        yield from _examine(host, each, answers[each.status])


def _read(path: str, places: Places) -> _Configuration | Finding:
    """Return the options that the checks need, or why the file cannot be used."""
    name = os.path.splitext(os.path.basename(path))[0]
    check, remedy = f"bridge {name} file", f"run '{PROGRAM} --config-file {path} --check'"
    conf = BoundedOpts()
    options = ("source", "target", "spool", "status_socket")
    conf.register_opts([cfg.StrOpt(each, default="") for each in options], group="bridge")
    try:
        sections = ConfigFile.read(path).sections
        is_exposed = _exposes_login(path, sections)
        conf([], project=PROGRAM, default_config_files=[path], default_config_dirs=[])
        source, target, spool, status = (conf.bridge[each].strip() for each in options)
    except StartError as error:
        if isinstance(error.__cause__, PermissionError):
            return Finding(check, SKIPPED, "you may not read it", AS_ROOT)
        return Finding(check, FAILED, "the bridge cannot use it", remedy)
    except (cfg.Error, OSError, ValueError, RecursionError):
        return Finding(check, FAILED, "the bridge cannot use it", remedy)
    schemes = [each.partition("://")[0] for each in (source, target)]
    if sum(each in BROKERS for each in schemes) != 1:
        finding = "not exactly one of source and target is the URL of a broker"
        return Finding(check, FAILED, finding, remedy)
    is_inbound = schemes[0] in BROKERS
    default = paths.INGEST_SOCKET if is_inbound else paths.PUBLIC_SOCKET
    relay = (target if is_inbound else source).removeprefix("unix://")
    return _Configuration(
        name,
        path,
        schemes[0] if is_inbound else schemes[1],
        is_inbound,
        relay or os.path.join(paths.RUNTIME_DIR, default),
        spool or os.path.join(STATE_DIRECTORY, f"{name}.sqlite"),
        status or os.path.join(places.sockets, name, STATUS_SOCKET),
        is_exposed,
    )


def _exposes_login(path: str, sections: Mapping[str, Mapping[str, list[str]]]) -> bool:
    """Return whether a file contains credentials and every user can read it."""
    contains = any(
        value and (_SECRET.search(option.lower()) or _URL_WITH_LOGIN.search(value))
        for options in sections.values()
        for option, values in options.items()
        for value in values
    )
    return contains and refusal(path, ANYBODY, READ) is None


def _examine(
    host: Host, bridge: _Configuration, answer: BridgeStatus | Problem
) -> Iterator[Finding]:
    user = _user(bridge)
    if bridge.is_exposed:
        finding = "every user can read it, and it contains credentials"
        yield Finding(f"{bridge.check} file", FAILED, finding, f"chmod o-r {bridge.path}")
    if user is None:
        finding = f"the user of the bridge is not known: {USER} does not exist"
        yield Finding(f"{bridge.check} user", SKIPPED, finding)
    else:
        if not bridge.is_exposed:
            yield _file(bridge, user)
        yield _socket(host, bridge, user)
        if not bridge.is_inbound:
            yield _spool(bridge, user)
    yield from _status(bridge, answer)


def _user(bridge: _Configuration) -> Account | None:
    """Return the owner of the status socket, or else the user of the unit; None if unknown."""
    try:
        return account(str(os.lstat(bridge.status).st_uid))
    except (OSError, LookupError):
        pass
    try:
        return account(USER)
    except LookupError:
        return None


def _file(bridge: _Configuration, user: Account) -> Finding:
    check = f"{bridge.check} file"
    try:
        refused = refusal(bridge.path, user, READ)
    except OSError as error:
        return Finding(check, SKIPPED, f"cannot examine it: {error.strerror}", AS_ROOT)
    if refused is None:
        return Finding(check, OK, f"{user.name} may read it")
    finding = f"{user.name} has no permission for {refused.path}"
    if refused.path != bridge.path and not _is_below(refused.path, os.path.dirname(CONFIG_FILE)):
        advice = f"leave it as it is, and move {bridge.path} to another directory"
        return Finding(check, FAILED, finding, advice)
    remedy = f"chgrp {USER} {refused.path}; chmod g+{'x' if refused.is_directory else 'r'} "
    return Finding(check, FAILED, finding, remedy + refused.path)


def _is_below(path: str, directory: str) -> bool:
    """Return whether a path is a directory or below it."""
    return f"{os.path.normpath(path)}/".startswith(f"{directory}/")


def _socket(host: Host, bridge: _Configuration, user: Account) -> Finding:
    """Check whether the user may use the relay's socket."""
    check = f"{bridge.check} socket"
    name, right = ("ingest", PRODUCE) if bridge.is_inbound else ("public", SUBSCRIBE)
    own = {os.path.realpath(each.path): each for each in host.named(name)}
    found = own.get(os.path.realpath(bridge.relay))
    try:
        if found is not None:
            return rights.examine_account(host, check, user, right, found)
        refused = refusal(bridge.relay, user)
    except FileNotFoundError:
        finding = f"the socket {bridge.relay} does not exist"
        return Finding(check, FAILED, finding, "start the relay or correct the path")
    except OSError as error:
        finding = f"cannot examine {bridge.relay}: {error.strerror}"
        return Finding(check, SKIPPED, finding, AS_ROOT)
    if refused is not None:
        advice = "correct the path, or ask the owner of the file"
        if belongs_to_relay(refused):
            remedy = refused.remedy(user.name)
            advice = f"{remedy}; systemctl restart {bridge.unit}" if remedy else AS_ROOT
        return Finding(check, FAILED, refused.sentence(user.name), advice)
    if not is_socket(bridge.relay):
        return Finding(check, FAILED, f"{bridge.relay} is not a socket", "correct the path")
    return Finding(check, OK, f"{user.name} may connect to {bridge.relay}")


def _spool(bridge: _Configuration, user: Account) -> Finding:
    """Check whether the user may create files in the directory of the spool."""
    check, directory = f"{bridge.check} spool", os.path.dirname(bridge.spool)
    try:
        refused = refusal(directory, user, WRITE | SEARCH)
        is_directory = stat.S_ISDIR(os.stat(directory).st_mode)
    except FileNotFoundError:
        finding = f"the directory {directory} does not exist"
        if directory == STATE_DIRECTORY:
            return Finding(check, SKIPPED, f"{finding}; {bridge.unit} creates it")
        create = f"install -d -o {user.name} -m 700 {directory}"
        own = _is_below(directory, STATE_DIRECTORY)
        return Finding(check, FAILED, finding, create if own else ANOTHER_SPOOL)
    except OSError as error:
        return Finding(check, SKIPPED, f"cannot examine {directory}: {error.strerror}", AS_ROOT)
    if not is_directory:
        return Finding(check, FAILED, f"{directory} is not a directory", "correct the option spool")
    if refused is not None:
        finding = f"{user.name} has no permission for {refused.path}"
        own = refused.path == directory and _is_below(directory, STATE_DIRECTORY)
        remedy = f"chown {user.name} {directory}" if own else ANOTHER_SPOOL
        return Finding(check, FAILED, finding, remedy)
    return Finding(check, OK, f"{user.name} may write to {directory}")


def _status(bridge: _Configuration, answer: BridgeStatus | Problem) -> Iterator[Finding]:
    """Report what the bridge says about itself."""
    check, log = f"{bridge.check} status", f"see journalctl -u {bridge.unit}"
    if isinstance(answer, Problem):
        result = {NO_PERMISSION: SKIPPED, NOT_RUNNING: WARNING}.get(answer.state, FAILED)
        start = f"systemctl enable --now {bridge.unit}"
        advice = {NO_PERMISSION: "", NOT_RUNNING: start}.get(answer.state, log)
        yield Finding(check, result, answer.reason, advice)
        return
    findings = list(_of_broker(bridge, answer, log))
    if answer.spool is not None:
        if answer.spool.failed:
            advice = f"free disk space; {log}"
            findings.append((FAILED, "the spool cannot be read or written", advice))
        if answer.spool.fill >= NEARLY_FULL:
            finding = f"the spool is full to {answer.spool.fill:.0%}"
            findings.append((WARNING, finding, "make the broker faster, or raise spool_max_bytes"))
        if dropped := answer.spool.dropped:
            finding = f"the spool has dropped {count(dropped, 'records')} since the start"
            advice = f"raise spool_max_bytes or spool_max_age; {log}"
            findings.append((WARNING, finding, advice))
    if not findings:
        waiting = f"{count(answer.behind, 'notifications')} wait for their confirmation"
        findings = [(OK, f"the broker is connected, {waiting}", "")]
    for found in findings:
        yield Finding(check, *found)


def _of_broker(
    bridge: _Configuration, answer: BridgeStatus, log: str
) -> Iterator[tuple[str, str, str]]:
    if not answer.connected:
        yield FAILED, "the broker is not connected", f"{log} for the reason"
    running = answer.direction == "in", answer.broker
    if running != (bridge.is_inbound, bridge.broker) or _has_changed(bridge.path, answer.since):
        finding = "the configuration has changed since the start of the bridge"
        yield WARNING, finding, f"systemctl restart {bridge.unit}"


def _has_changed(path: str, since: float) -> bool:
    try:
        return os.stat(path).st_mtime > since
    except OSError:
        return False
