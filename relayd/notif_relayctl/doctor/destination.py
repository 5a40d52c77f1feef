# SPDX-License-Identifier: Apache-2.0
"""Check whether the socket that a service sends to is a private socket of this relay.

Real paths are compared, since /var/run is a link to /run on most hosts.
"""

import os
import stat
from collections.abc import Sequence

from notif_relay import paths
from notif_relay.connection import checked_path
from notif_relayctl.access import in_runtime_dir
from notif_relayctl.client import ask
from notif_relayctl.doctor.finding import FAILED, OK, Finding
from notif_relayctl.errors import CtlError
from notif_relayd.control.schema import Status

OTHER_RELAY = "which belongs to another relay"
UNKNOWN = "a socket that no relay is known to use"


def examine(check: str, sender: str, path: str, ingest: Sequence[str], remedy: str) -> Finding:
    """Check the socket that a handler or driver sends to.

    Args:
        check: name of the check.
        sender: the handler or driver, with its name.
        path: the socket that it sends to.
        ingest: the private sockets of the relay.
        remedy: how to send to the first of `ingest`.
    """
    try:
        checked_path(path)
    except ValueError as error:
        return Finding(check, FAILED, f"{sender} cannot send: {error}", remedy)
    if not os.path.isabs(path):
        finding = f"{sender} sends to {path}, which depends on the service's working directory"
        return Finding(check, FAILED, finding, f"{remedy}, which is absolute")
    if os.path.realpath(path) in map(os.path.realpath, ingest):
        return Finding(check, OK, f"{sender} sends to {path}, the relay's private socket")
    directory = os.path.dirname(os.path.realpath(path))
    owner = _owner(path, directory)
    if owner == OTHER_RELAY:
        remedy += f", or examine that relay: relayctl --runtime-dir {directory} doctor"
    finding = f"{sender} sends to {path}, {owner}; the relay's private socket is {ingest[0]}"
    return Finding(check, FAILED, finding, remedy)


def _owner(path: str, directory: str) -> str:
    """Return what a path is, which is not a socket of this relay."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return "which is not a socket"
    except (FileNotFoundError, NotADirectoryError):
        return "which does not exist"
    except OSError as error:
        return f"which cannot be examined ({error.strerror})"
    if in_runtime_dir(directory):
        return OTHER_RELAY  # of an instance, which need not run
    try:
        other = ask(os.path.join(directory, paths.CONTROL_SOCKET), "status", Status)
    except (CtlError, ValueError):
        return UNKNOWN
    is_ingest = os.path.realpath(other.ingest_socket) == os.path.realpath(path)
    return OTHER_RELAY if is_ingest else UNKNOWN
