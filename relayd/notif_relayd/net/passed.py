# SPDX-License-Identifier: Apache-2.0
"""The descriptors that systemd passes.

Only a process that gets descriptors needs systemd-python, which has to be compiled. A relay without
systemd works without it.
"""

import os
import socket

try:
    from systemd import daemon
except ImportError:
    daemon = None

from notif_relayd.errors import StartError
from notif_relayd.escaping import printable


def passed() -> list[tuple[str, int]]:
    """Return name and number of each descriptor that systemd passed (sd_listen_fds_with_names(3)).

    Raises:
        StartError: the environment variables are inconsistent, or do not match the descriptors, or
            systemd-python is not installed.
    """
    announced = {
        name: os.environ.get(name) for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    }
    if not any(announced.values()):
        return []
    if daemon is None:
        raise StartError(
            'systemd passed descriptors, but systemd-python is not installed: run "pip install '
            "'.[daemon]'\" in the sources of notif-relayd"
        )
    try:
        named = daemon.listen_fds_with_names(unset_environment=True)
    except OSError as error:
        environment = " ".join(f"{name}={value}" for name, value in announced.items() if value)
        raise StartError(
            f"cannot use the descriptors announced by {printable(environment)}: "
            f"{error.strerror}; only systemd may set these variables"
        ) from error
    return [(name, fd) for fd, name in named.items()]


def refuse_listening(name: str, fd: int) -> None:
    """Check that a passed descriptor with an unknown name is not a listening socket.

    systemd would accept connections to it, and no process would serve them.

    Raises:
        StartError: it is a listening socket.
    """
    if daemon.is_socket(fd, listening=1):
        with socket.socket(fileno=os.dup(fd)) as listener:
            address = printable(str(listener.getsockname()))
        raise StartError(
            f"systemd passed the listening socket {address} with the name {name!r}: set "
            "FileDescriptorName=public or FileDescriptorName=ingest in its unit"
        )


def is_unix_stream(fd: int, *, listening: bool) -> bool:
    """Return whether a passed descriptor is a Unix stream socket that listens or does not."""
    return bool(daemon.is_socket_unix(fd, socket.SOCK_STREAM, listening=int(listening)))
