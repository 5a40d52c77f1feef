# SPDX-License-Identifier: Apache-2.0
"""Check whether the socket that a service uses is the right one of this relay.

Real paths are compared, since /var/run is a link to /run on most hosts.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from notif_relay import paths
from notif_relay.connection import checked_path
from notif_relayctl.access import in_runtime_dir
from notif_relayctl.client import ask
from notif_relayctl.doctor.finding import FAILED, OK, Finding
from notif_relayctl.errors import CtlError
from notif_relayd.control.schema import Status

OTHER_RELAY = "which belongs to another relay"
UNKNOWN = "a socket that no relay is known to use"


@dataclass(frozen=True, slots=True)
class Sockets:
    """The paths of a relay's sockets. The first one of each kind is the one the daemon reports."""

    public: Sequence[str]
    ingest: Sequence[str]

    @property
    def first_public(self) -> str:
        """The public socket in the directory of the private one, as ``sock_path`` names it."""
        return os.path.join(os.path.dirname(self.ingest[0]), paths.PUBLIC_SOCKET)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One of the two kinds of sockets."""

    name: str
    users: str
    file: str
    """Its usual name."""
    use: str
    connects: str


_PRIVATE = _Kind("private", "producers", paths.INGEST_SOCKET, "send", "sends to")
_PUBLIC = _Kind("public", "subscribers", paths.PUBLIC_SOCKET, "read", "reads from")

_KINDS = (_PRIVATE, _PUBLIC)


def examine(check: str, sender: str, path: str, sockets: Sockets, remedy: str) -> Finding:
    """Check the socket that a handler or driver sends to.

    Args:
        check: name of the check.
        sender: the handler or driver, with its name.
        path: the socket that it sends to.
        sockets: the sockets of the relay.
        remedy: how to send to the first private socket.
    """
    return _examine(check, sender, path, (_PRIVATE, sockets.ingest), sockets.public, remedy)


def examine_reader(check: str, reader: str, path: str, sockets: Sockets, remedy: str) -> Finding:
    """Check the socket that a consumer reads from.

    Args:
        check: name of the check.
        reader: the option that names the socket.
        path: the socket that it reads from.
        sockets: the sockets of the relay.
        remedy: how to read from the first public socket.
    """
    return _examine(check, reader, path, (_PUBLIC, sockets.public), sockets.ingest, remedy)


def _examine(
    check: str,
    client: str,
    path: str,
    wanted: tuple[_Kind, Sequence[str]],
    others: Sequence[str],
    remedy: str,
) -> Finding:
    kind, own = wanted
    try:
        checked_path(path)
    except ValueError as error:
        return Finding(check, FAILED, f"{client} cannot {kind.use}: {error}", remedy)
    connects = f"{client} {kind.connects} {path}"
    if not os.path.isabs(path):
        finding = f"{connects}, which depends on the service's working directory"
        return Finding(check, FAILED, finding, f"{remedy}, which is absolute")
    if os.path.realpath(path) in map(os.path.realpath, own):
        return Finding(check, OK, f"{connects}, the relay's {kind.name} socket")
    if os.path.realpath(path) in map(os.path.realpath, others):
        other = _PUBLIC if kind is _PRIVATE else _PRIVATE
        owner = f"the relay's {other.name} socket, which is for {other.users}"
    else:
        owner = _owner(path, kind)
    if owner == OTHER_RELAY:
        directory = os.path.dirname(os.path.realpath(path))
        remedy += f", or examine that relay: relayctl --runtime-dir {directory} doctor"
    finding = f"{connects}, {owner}; the relay's {kind.name} socket is {own[0]}"
    return Finding(check, FAILED, finding, remedy)


def is_of_another_relay(finding: Finding) -> bool:
    """Return whether a finding says that a service uses another relay instead of this one."""
    return f", {OTHER_RELAY};" in finding.finding


def _owner(path: str, kind: _Kind) -> str:
    """Return what a path is, which is not a socket of this relay."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return "which is not a socket"
    except (FileNotFoundError, NotADirectoryError):
        return "which does not exist"
    except OSError as error:
        return f"which cannot be examined ({error.strerror})"
    real = os.path.realpath(path)
    directory = os.path.dirname(real)
    if in_runtime_dir(directory):
        # The relay may be an instance, which need not run.
        found = next((each for each in _KINDS if each.file == os.path.basename(real)), None)
    else:
        try:
            other = ask(os.path.join(directory, paths.CONTROL_SOCKET), "status", Status)
        except (CtlError, ValueError):
            return UNKNOWN
        reported = zip(_KINDS, (other.ingest_socket, other.public_socket), strict=True)
        found = next((each for each, path in reported if os.path.realpath(path) == real), None)
    if found is None:
        return UNKNOWN
    return OTHER_RELAY if found is kind else f"the {found.name} socket of another relay"
