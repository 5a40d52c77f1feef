# SPDX-License-Identifier: Apache-2.0
"""Check the file of oslo.messaging's routing driver, which names other drivers.

Only the library's driver is possible. The routing driver creates the other drivers without the
arguments that they require, and skips those that fail.
"""

import os
import stat

import msgspec

from notif_relayctl.access import AS_ROOT
from notif_relayctl.doctor.finding import FAILED, SKIPPED, Finding
from notif_relayd.errors import one_line

MAX_SIZE = 256 * 1024
"""Bytes of a routing file that are read; a longer file is another one by mistake."""


def drivers(check: str, path: str | None, remedy: str) -> set[str] | Finding:
    """Return the drivers that the file names, or a finding if it cannot be used.

    Args:
        check: name of the check.
        path: the value of ``routing_config``.
        remedy: how to send to the relay without the routing driver.
    """
    if not path:
        finding = "the driver routing has no rules: routing_config is not set"
        return Finding(check, FAILED, finding, remedy)
    try:
        groups = msgspec.yaml.decode(_read(path), type=dict[str, dict[str, object]] | None)
    except PermissionError:
        return Finding(check, SKIPPED, f"you may not read {path}", AS_ROOT)
    except (OSError, ValueError, RecursionError, msgspec.DecodeError) as error:
        return Finding(check, FAILED, f"cannot read {path}: {one_line(error)}", "correct it")
    return {driver for group in (groups or {}).values() for driver in group}


def _read(path: str) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than `MAX_SIZE` bytes.
        ValueError: no file can have this path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a regular file")
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise OSError(f"it has more than {MAX_SIZE} bytes")
    return content
