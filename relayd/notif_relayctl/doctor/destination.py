# SPDX-License-Identifier: Apache-2.0
"""Check whether the socket that a service sends to is the private socket of this relay.

Real paths are compared, since /var/run is a link to /run on most hosts.
"""

import os

from notif_relay.connection import checked_path
from notif_relayctl.doctor.finding import FAILED, OK, Finding


def examine(check: str, sender: str, path: str, ingest: str, option: str) -> Finding:
    """Check the socket that a handler or driver sends to.

    Args:
        check: name of the check.
        sender: the handler or driver, with its name.
        path: the socket that it sends to.
        ingest: the private socket of the relay.
        option: name of the option that sets `path`.
    """
    try:
        checked_path(path)
    except ValueError as error:
        return Finding(check, FAILED, f"{sender} cannot send: {error}", f"set {option}")
    if not os.path.isabs(path):
        finding = f"{sender} sends to {path}, which depends on the service's working directory"
        return Finding(check, FAILED, finding, f"set {option} to the absolute path {ingest}")
    if os.path.realpath(path) == os.path.realpath(ingest):
        return Finding(check, OK, f"{sender} sends to {path}, the relay's private socket")
    return Finding(
        check,
        FAILED,
        f"{sender} sends to {path}, but the relay's private socket is {ingest}",
        f"set {option} to {ingest}",
    )
