# SPDX-License-Identifier: Apache-2.0
"""Check whether a running service can import the library.

Nothing of the service is executed. proc(5) shows the interpreter of a process, the packages that it
has loaded, and, through ``/proc/PID/root``, the files of its container. From these, the directories
follow that the interpreter searches for packages (site.py in the standard library).
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from notif_relayctl.access import AS_ROOT
from notif_relayctl.accounts import home
from notif_relayctl.doctor import processes
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, Finding
from notif_relayctl.doctor.processes import read

PACKAGE = "notif_relay"

DISTRIBUTION = "notif_relayd-*.dist-info"
"""Metadata of the distribution; an editable installation may consist of it and a hook."""

METADATA = (DISTRIBUTION, "notif_relayd*.egg-info")
"""Metadata in which entry points can be."""

ENTRY_POINT = "unix"
"""Name of each entry point of the library."""

VERSION = re.compile(r"/(?:lib)?python(3\.\d+)")
"""An interpreter, its library, or a directory of its modules."""

SITE = re.compile(r"(/\S*)/lib(?:64)?/python3(?:\.\d+)?/(?:site|dist)-packages/")
"""A file of an installed package; the group is the prefix of the environment."""


@dataclass(frozen=True, slots=True)
class _Environment:
    """The packages that a process can import."""

    pid: int
    command: str
    directories: tuple[str, ...]
    """The directories that its interpreter searches, as the process sees them."""

    def contains_library(self) -> bool:
        """Return whether one of the directories contains the library."""
        return any(
            os.path.isfile(os.path.join(each, PACKAGE, "__init__.py"))
            or glob.glob(os.path.join(glob.escape(each), DISTRIBUTION))
            for each in self.searched()
        )

    def missing_entry_points(self, groups: Iterable[str]) -> list[str]:
        """Return the groups in which no distribution of the library has an entry point."""
        files = [
            file
            for directory in self.searched()
            for name in METADATA
            for file in glob.glob(os.path.join(glob.escape(directory), name, "entry_points.txt"))
        ]
        found = {group for file in files for group in _groups(file)}
        return sorted(set(groups) - found)

    def searched(self) -> Iterator[str]:
        """Yield the directories and those that their .pth files add, as this process sees them."""
        root = f"/proc/{self.pid}/root"
        for each in self.directories:
            directory = root + each
            yield directory
            for file in glob.glob(os.path.join(glob.escape(directory), "*.pth")):
                yield from (root + os.path.join(each, line) for line in _path_lines(file))


def examine(given: Sequence[str], entry_points: Iterable[str] = ()) -> Iterator[Finding]:
    """Check the processes of a service.

    Args:
        given: the service's configuration files and directories.
        entry_points: groups in which the library must have an entry point, by which oslo.messaging
            finds it.
    """
    check = f"library {' '.join(given)}"
    unreadable = 0
    environments: dict[tuple[str, ...], _Environment] = {}
    for pid, words in processes.of_service(given):
        try:
            environment = _environment(pid, words)
        except (FileNotFoundError, ProcessLookupError):
            continue  # The process has ended.
        except OSError:
            unreadable += 1
            continue
        if environment is not None:
            environments.setdefault(environment.directories, environment)
    if unreadable:
        yield Finding(check, SKIPPED, "you may not examine the processes of the service", AS_ROOT)
    elif not environments:
        yield Finding(check, SKIPPED, "no process of the service is known; check it while it runs")
    for each in environments.values():
        yield _finding(check, each, entry_points)


def runs_python(pid: int, words: Sequence[str]) -> bool:
    """Return whether a process runs Python, as far as this process may examine it.

    Args:
        pid: the process.
        words: its command line.
    """
    if os.path.basename(words[0]).startswith("python"):
        return True
    try:
        exe, loaded = os.readlink(f"/proc/{pid}/exe"), read(f"/proc/{pid}/maps", limit=-1)
    except OSError:
        return False
    return bool(VERSION.search(exe) or VERSION.search(loaded))


def _finding(check: str, environment: _Environment, entry_points: Iterable[str]) -> Finding:
    process = f"process {environment.pid} ({environment.command})"
    if not environment.contains_library():
        return Finding(
            check,
            FAILED,
            f"{process} cannot import {PACKAGE}: it is not in {', '.join(environment.directories)}",
            "install the library there, then restart the service",
        )
    if missing := environment.missing_entry_points(entry_points):
        return Finding(
            check,
            FAILED,
            f"{process} can import {PACKAGE}, but oslo.messaging does not find it: there is no "
            f"entry point {ENTRY_POINT} in {', '.join(missing)}",
            "install the library with the pip of the service instead of a copy of its files, then "
            "restart the service",
        )
    return Finding(check, OK, f"{process} can import {PACKAGE}")


def _groups(file: str) -> Iterator[str]:
    """Yield the groups of a file of entry points in which the library's name is."""
    try:
        lines = read(file).splitlines()
    except OSError:
        return
    group = ""
    for line in lines:
        if line.startswith("["):
            group = line.strip().strip("[]")
        elif line.partition("=")[0].strip() == ENTRY_POINT:
            yield group


def _environment(pid: int, words: Sequence[str]) -> _Environment | None:
    """Return the environment of a process; `None` if it does not run Python or it is unknown.

    Raises:
        OSError: the process has ended, or this process may not examine it.
    """
    exe = os.readlink(f"/proc/{pid}/exe")
    loaded = read(f"/proc/{pid}/maps", limit=-1)
    version = VERSION.search(exe) or VERSION.search(loaded)
    if version is None:
        return None
    variables = dict(
        each.partition("=")[::2] for each in read(f"/proc/{pid}/environ", limit=-1).split("\0")
    )
    interpreter = _interpreter(pid, words[0], variables)
    prefixes = dict.fromkeys(SITE.findall(loaded))
    if interpreter:
        prefixes = {os.path.dirname(os.path.dirname(interpreter)): None, **prefixes}
    if not prefixes:
        return None  # A program that embeds Python, or a process that has changed its title.
    root = f"/proc/{pid}/root"
    directories = [each for each in variables.get("PYTHONPATH", "").split(":") if each[:1] == "/"]
    system = [os.path.dirname(os.path.dirname(exe)), "/usr", "/usr/local"]
    for prefix in prefixes:
        try:
            settings = read(f"{root}{prefix}/pyvenv.cfg")
        except OSError:
            continue
        directories += _site_directories([prefix], version[1])
        if not re.search(r"(?m)^include-system-site-packages\s*=\s*true", settings):
            system = []
        break
    if system:
        own = variables.get("HOME") or home(os.stat(f"/proc/{pid}").st_uid) or "/"
        directories += _site_directories([*system, *prefixes, f"{own}/.local"], version[1])
    existing = (each for each in directories if os.path.isdir(root + each))
    command = read(f"/proc/{pid}/comm").strip()
    return _Environment(pid, command, tuple(dict.fromkeys(existing)))


def _interpreter(pid: int, word: str, variables: Mapping[str, str]) -> str | None:
    """Return the path by which the interpreter was started, which decides on its environment."""
    if not os.path.basename(word).startswith("python"):
        return None
    if "/" in word:
        return os.path.join(os.readlink(f"/proc/{pid}/cwd"), word)
    for directory in variables.get("PATH", "").split(":"):
        path = os.path.join(directory, word)
        if os.path.exists(f"/proc/{pid}/root{path}"):
            return path
    return None


def _site_directories(prefixes: Sequence[str], version: str) -> Iterator[str]:
    for prefix in dict.fromkeys(prefixes):
        for library in ("lib", "lib64"):
            for kind in ("site-packages", "dist-packages"):
                yield f"{prefix}/{library}/python{version}/{kind}"
        yield f"{prefix}/lib/python3/dist-packages"


def _path_lines(file: str) -> list[str]:
    """Return the lines of a .pth file that are directories; the others are code or comments."""
    try:
        lines = read(file).splitlines()
    except OSError:
        return []
    return [each.strip() for each in lines if each.strip() and not each.startswith(("#", "import"))]
