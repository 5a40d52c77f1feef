# SPDX-License-Identifier: Apache-2.0
"""The running processes of a service, which proc(5) shows."""

import os
import re
import stat
from collections.abc import Iterator, Sequence

from notif_relayctl.accounts import Account

MAX_FILE = 65536
"""Bytes that are read of a small file, which may belong to any user."""

PROGRAMS = {"relayctl", "notif-relayd"}
"""Programs that are no service, although their command line may name its configuration."""


def of_service(given: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the processes whose command line names the files or the service, and its words.

    Args:
        given: the service's configuration files and directories.
    """
    files = set(map(os.path.abspath, given))
    # /etc/nova/nova.conf is the default configuration of nova-compute.
    stems = {path: os.path.splitext(os.path.basename(path))[0] for path in files}
    projects = {
        stem for path, stem in stems.items() if os.path.basename(os.path.dirname(path)) == stem
    }
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        try:
            words = read(f"/proc/{entry}/cmdline").split("\0")[:-1]
        except OSError:
            continue  # The process has ended.
        # A service may replace its title by "aodh-listener: master process [COMMAND]" (cotyledon).
        parts = [part.strip("[]") for word in words for part in word.split()]
        names = [os.path.basename(part) for part in parts]
        named = files.intersection(each.rpartition("=")[2] for each in (*words, *parts)) or any(
            re.split("[-_:.]", name)[0] in projects for name in names[:2]
        )
        if named and not PROGRAMS.intersection(names):
            yield int(entry), words


def account_of(pid: int | str) -> Account:
    """Return the user and the groups of a process; the name is that of the program.

    Raises:
        OSError: the process has ended.
    """
    with open(f"/proc/{pid}/status", errors="replace") as lines:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
    # The last of the four IDs is the one for file access.
    groups = [*status["Groups"].split(), status["Gid"].split()[-1]]
    return Account(status["Name"], int(status["Uid"].split()[-1]), frozenset(map(int, groups)))


def is_of_session(pid: int) -> bool:
    """Return whether a process belongs to a login session of systemd, and not to a service.

    Raises:
        OSError: the process has ended.
    """
    return "/user.slice/" in read(f"/proc/{pid}/cgroup")


def read(path: str, limit: int = MAX_FILE) -> str:
    """Return the text of a regular file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, encoding="utf-8", errors="surrogateescape") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        return file.read(limit)
