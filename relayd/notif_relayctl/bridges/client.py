# SPDX-License-Identifier: Apache-2.0
"""Queries all bridges of this host at the same time.

Each bridge has a directory in one common directory, and in it a socket. The owner of a directory
can put anything there, so the number of directories, the size of an answer and the time for all of
them are bounded.
"""

import argparse
import errno
import itertools
import os
import selectors
import socket
import stat
import time
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from notif_relayctl.access import BRIDGE_DIRECTORY, not_allowed
from notif_relayctl.bridges.schema import BridgeStatus
from notif_relayctl.command import path
from notif_relayctl.errors import CtlError, NotAllowedError, NotRunningError
from notif_relayd.errors import one_line

STATUS_SOCKET = "status.sock"

QUERY_TIMEOUT = 2.0
"""Seconds for the answers of all bridges; each takes about a millisecond."""

MAX_BRIDGES = 256
"""Directories that are examined. More are an error."""

MAX_ANSWER = 16 * 1024
"""Maximum size of an answer in bytes; bridges send less than 1 KiB."""

NOT_RUNNING, NO_PERMISSION, NO_ANSWER, INVALID = (
    *("not running", "no permission"),
    *("no answer", "invalid answer"),
)


class Problem(NamedTuple):
    """Why the status of a bridge is not known."""

    state: str
    """One of the four states above."""
    reason: str
    """The reason as a sentence, perhaps with a remedy. It may contain unprintable characters."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """One bridge."""

    name: str
    """The name of its directory."""
    path: str
    """The status socket."""
    answer: BridgeStatus | Problem


def add_bridge_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option for the directory of the bridges."""
    parser.add_argument(
        "--bridge-dir",
        type=path,
        default=BRIDGE_DIRECTORY,
        metavar="DIR",
        help=f"directory with one directory for each bridge and a {STATUS_SOCKET} in it (default: "
        "%(default)s)",
    )


def query_all(directory: str) -> list[Bridge]:
    """Return the bridges that have a status socket, by name.

    Raises:
        NotRunningError: there is none.
        NotAllowedError: this user may not read the directory.
        CtlError: the directory cannot be read, or has too many entries.
    """
    sockets = _sockets(directory)
    if not sockets:
        raise NotRunningError(
            f"no bridge is running: there is no {directory}/NAME/{STATUS_SOCKET}; start a bridge, "
            "or set its option status_socket"
        )
    answers = query(list(sockets.values()))
    return [Bridge(name, path, answers[path]) for name, path in sockets.items()]


def _sockets(directory: str) -> dict[str, str]:
    try:
        with os.scandir(directory) as entries:
            names = [each.name for each in itertools.islice(entries, MAX_BRIDGES + 1)]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError:
        raise NotAllowedError(f"you may not read {directory}; run it as root") from None
    except OSError as error:
        raise CtlError(f"cannot read {directory}: {error.strerror}") from None
    if len(names) > MAX_BRIDGES:
        raise CtlError(f"{directory} has more than {MAX_BRIDGES} entries; remove what is no bridge")
    paths = {each: os.path.join(directory, each, STATUS_SOCKET) for each in sorted(names)}
    return {name: path for name, path in paths.items() if _may_be_socket(path)}


def _may_be_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


def query(paths: list[str]) -> dict[str, BridgeStatus | Problem]:
    """Return the answer of each status socket."""
    answers: dict[str, BridgeStatus | Problem] = {}
    deadline = time.monotonic() + QUERY_TIMEOUT
    with selectors.DefaultSelector() as selector:
        for path in paths:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                connection.connect(path)
            except (OSError, ValueError) as error:  # ValueError: the path contains a null byte.
                connection.close()
                answers[path] = _connect_problem(path, error)
            else:
                selector.register(connection, selectors.EVENT_READ, _Answer(path, connection))
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if key.data.read():
                    selector.unregister(key.fileobj)
                    answers[key.data.path] = key.data.finish()
        for key in list(selector.get_map().values()):
            key.data.connection.close()
            answers[key.data.path] = _no_answer(key.data.path)
    return answers


class _Answer:
    def __init__(self, path: str, connection: socket.socket) -> None:
        self.path = path
        self.connection = connection
        self._data = bytearray()

    def read(self) -> bool:
        """Read what has arrived; return whether this was all."""
        try:
            data = self.connection.recv(MAX_ANSWER + 1 - len(self._data))
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._data += data
        return not data or data.endswith(b"\n") or len(self._data) > MAX_ANSWER

    def finish(self) -> BridgeStatus | Problem:
        """Close the connection and decode the answer."""
        self.connection.close()
        if not self._data:
            reason = f"the program at {self.path} has closed the connection without an answer"
            return Problem(NO_ANSWER, reason)
        try:
            if len(self._data) > MAX_ANSWER:
                raise ValueError(f"it is longer than {MAX_ANSWER} bytes")
            return msgspec.json.decode(self._data, type=BridgeStatus)
        except (ValueError, RecursionError) as error:
            reason = f"cannot decode the answer from {self.path}: {one_line(error)}"
            return Problem(INVALID, f"{reason}; is the bridge of another version?")


def _connect_problem(path: str, error: OSError | ValueError) -> Problem:
    match getattr(error, "errno", None):
        case errno.ECONNREFUSED | errno.ENOENT:
            return Problem(NOT_RUNNING, f"no process listens on {path}")
        case errno.EACCES | errno.EPERM:
            return Problem(NO_PERMISSION, not_allowed(path))
        case errno.EAGAIN:
            return _no_answer(path)
    return Problem(NO_ANSWER, f"cannot connect to {path}: {error}")


def _no_answer(path: str) -> Problem:
    reason = f"the bridge at {path} does not answer within {QUERY_TIMEOUT:.0f} seconds"
    return Problem(NO_ANSWER, f"{reason}; it may be stopped or have too many clients")
