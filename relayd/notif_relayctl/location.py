# SPDX-License-Identifier: Apache-2.0
"""Where the sockets of a relay are: in the given directory, or as its configuration says.

systemd ignores the paths in the configuration, so they count only if the default path does not
exist. Reading the configuration takes longer than most commands.
"""

import argparse
import os
import re

from notif_relay import paths

INSTANCE = re.compile(r"[\w:][\w:.\\-]*", re.ASCII)
"""The name of an instance of a template unit, systemd.unit(5). It is also that of a directory."""


def instance_directory(name: str) -> str:
    """Return the directory of the sockets of an instance, such as notif-relayd@nova.

    Raises:
        argparse.ArgumentTypeError: no instance can have this name.
    """
    if not INSTANCE.fullmatch(name):
        raise argparse.ArgumentTypeError(
            f"{name!r} is not the name of an instance, as in notif-relayd@NAME.socket"
        )
    return os.path.join(paths.RUNTIME_DIR, name)


def instance_of(runtime_dir: str) -> str | None:
    """Return the instance whose sockets are in a directory; `None` for any other directory."""
    parent, name = os.path.split(os.path.normpath(runtime_dir))
    return name if parent == paths.RUNTIME_DIR else None


def socket_path(runtime_dir: str, name: str) -> str:
    """Return the path of a socket.

    Args:
        runtime_dir: directory of the sockets. If it is the default, the configuration may replace
            it.
        name: the default name of the socket.
    """
    path = os.path.join(runtime_dir, name)
    if runtime_dir != paths.RUNTIME_DIR or os.path.exists(path):
        return path
    from notif_relayd import settings  # noqa: PLC0415 - slow

    if not os.path.exists(settings.CONFIG_FILE) and not os.path.exists(settings.CONFIG_DIR):
        return path
    from notif_relayctl.doctor.configuration import configuration_of  # noqa: PLC0415 - slow

    configured, _ = configuration_of(runtime_dir, None, None)
    plans = {
        paths.PUBLIC_SOCKET: configured.public,
        paths.INGEST_SOCKET: configured.ingest,
        paths.CONTROL_SOCKET: configured.control,
    }
    return plans[name].path
