# SPDX-License-Identifier: Apache-2.0
"""The names of instances of the relay, such as notif-relayd@nova, and their directories."""

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
