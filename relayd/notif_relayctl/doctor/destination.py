# SPDX-License-Identifier: Apache-2.0
"""Whether what a service sends to is this relay's private socket.

Files are compared and not names, as /var/run is /run on most hosts.
"""

import os

from notif_relay.connection import checked_path
from notif_relayctl.doctor.finding import FAILED, OK, Finding


def examine(check: str, sender: str, path: str, ingest: str, option: str) -> Finding:
    """Say where `sender` sends to.

    Args:
        check: the finding's.
        sender: a handler or a driver, with its name.
        path: what it sends to.
        ingest: the relay's private socket.
        option: what sets the path.
    """
    try:
        checked_path(path)
    except ValueError as error:
        return Finding(check, FAILED, f"{sender} cannot send: {error}", f"set {option}")
    if not os.path.isabs(path):
        said = f"{sender} sends to {path}, which depends on where the service is started"
        return Finding(check, FAILED, said, f"give {option} the whole path {ingest}")
    if os.path.realpath(path) == os.path.realpath(ingest):
        return Finding(check, OK, f"{sender} sends to {path}, the relay's private socket")
    return Finding(
        check,
        FAILED,
        f"{sender} sends to {path}, and the relay's private socket is {ingest}",
        f"set {option} accordingly",
    )
