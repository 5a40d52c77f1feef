# SPDX-License-Identifier: Apache-2.0
"""Check whether a running service can import the library.

Nothing of the service is executed. proc(5) shows the interpreter of a process, the packages that it
has loaded, and, through ``/proc/PID/root``, the files of its container. From these, the directories
follow that the interpreter searches for packages (site.py in the standard library).
"""

import glob
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from notif_relayctl.access import AS_ROOT
from notif_relayctl.accounts import home
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, Finding

PACKAGE = "notif_relay"

DISTRIBUTION = "notif_relayd-*.dist-info"
"""Metadata of the distribution; an editable installation may consist of it and a hook."""

VERSION = re.compile(r"/(?:lib)?python(3\.\d+)")
"""An interpreter, its library, or a directory of its modules."""

SITE = re.compile(r"(/\S*)/lib(?:64)?/python3(?:\.\d+)?/(?:site|dist)-packages/")
"""A file of an installed package; the group is the prefix of the environment."""

MAX_FILE = 65536
"""Bytes that are read of a small file of an environment, which may belong to any user."""

PROGRAMS = {"relayctl", "notif-relayd"}
"""Programs that are no service, although their command line may name its configuration."""


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

    def searched(self) -> Iterator[str]:
        """Yield the directories and those that their .pth files add, as this process sees them."""
        root = f"/proc/{self.pid}/root"
        for each in self.directories:
            directory = root + each
            yield directory
            for file in glob.glob(os.path.join(glob.escape(directory), "*.pth")):
                yield from (root + os.path.join(each, line) for line in _path_lines(file))


def examine(given: Sequence[str]) -> Iterator[Finding]:
    """Check the processes of a service.

    Args:
        given: the service's configuration files and directories.
    """
    check = f"library {' '.join(given)}"
    unreadable = 0
    environments: dict[tuple[str, ...], _Environment] = {}
    for pid, words in _processes(given):
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
        yield _finding(check, each)


def _finding(check: str, environment: _Environment) -> Finding:
    process = f"process {environment.pid} ({environment.command})"
    if environment.contains_library():
        return Finding(check, OK, f"{process} can import {PACKAGE}")
    return Finding(
        check,
        FAILED,
        f"{process} cannot import {PACKAGE}: it is not in {', '.join(environment.directories)}",
        "install the library there, then restart the service",
    )


def _processes(given: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the processes whose command line names the files or the service, and its words."""
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
            words = _read(f"/proc/{entry}/cmdline").split("\0")[:-1]
        except OSError:
            continue  # The process has ended.
        names = [os.path.basename(part) for word in words for part in word.split()]
        named = files.intersection(word.rpartition("=")[2] for word in words) or any(
            re.split("[-_:.]", name)[0] in projects for name in names[:2]
        )
        if named and not PROGRAMS.intersection(names):
            yield int(entry), words


def _environment(pid: int, words: Sequence[str]) -> _Environment | None:
    """Return the environment of a process; `None` if it does not run Python or it is unknown.

    Raises:
        OSError: the process has ended, or this process may not examine it.
    """
    exe = os.readlink(f"/proc/{pid}/exe")
    loaded = _read(f"/proc/{pid}/maps", limit=-1)
    version = VERSION.search(exe) or VERSION.search(loaded)
    if version is None:
        return None
    variables = dict(
        each.partition("=")[::2] for each in _read(f"/proc/{pid}/environ", limit=-1).split("\0")
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
            settings = _read(f"{root}{prefix}/pyvenv.cfg")
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
    command = _read(f"/proc/{pid}/comm").strip()
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
        lines = _read(file).splitlines()
    except OSError:
        return []
    return [each.strip() for each in lines if each.strip() and not each.startswith(("#", "import"))]


def _read(path: str, limit: int = MAX_FILE) -> str:
    """Return the text of a regular file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, encoding="utf-8", errors="surrogateescape") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        return file.read(limit)
