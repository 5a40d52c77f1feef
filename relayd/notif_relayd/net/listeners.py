# SPDX-License-Identifier: Apache-2.0
"""The listening sockets: passed by systemd, or bound by the daemon.

The owner, group and mode of the socket file decide which processes can connect, so they must be
right before any process can. The daemon binds a socket with the mode set by the umask, changes
owner and group, and only then listens; until then the kernel refuses every connect. A socket that
systemd passes has the permissions of its unit until the daemon applies its own configuration.

A socket file outlives its process; the daemon replaces a file on which no process listens. A lock
file beside the socket keeps two daemons from replacing each other's socket.
"""

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from notif_relayd.errors import StartError
from notif_relayd.files import check_parent
from notif_relayd.lock_file import locked
from notif_relayd.net import ancillary
from notif_relayd.net.passed import is_unix_stream
from notif_relayd.peer import peer_of
from notif_relayd.settings import SocketPlan

BACKLOG = 4096
"""Maximum number of connections in the queue; the kernel lowers it to net.core.somaxconn."""

DEFAULT_MODE = 0o660
"""Mode of a socket file that the daemon binds, if none is configured."""

LOCK_FILE = ".notif-relayd.lock"
"""Name of the lock file, which exists while a socket is bound or removed."""


@dataclass(slots=True)
class Listener:
    """A listening socket, and its file if the daemon has to remove it."""

    socket: socket.socket
    file: tuple[int, int] | None
    """Device and inode of the file that the daemon bound; `None` for a passed socket."""
    warning: str = ""
    """A warning to be logged if the permissions are incomplete; otherwise empty."""

    @property
    def bound_here(self) -> bool:
        """Whether the daemon bound the socket."""
        return self.file is not None

    def relisten(self) -> None:
        """Make clients see this process as their peer, not the process that started it.

        listen(2) stores the credentials of its caller for SO_PEERCRED.
        """
        if self.bound_here:
            self.socket.listen(BACKLOG)

    def close(self) -> None:
        """Close the socket; remove its file if the daemon bound it and it was not replaced."""
        path = self.socket.getsockname()
        ancillary.close_listener(self.socket)
        # The next daemon may be binding. If the lock cannot be taken, the file stays; the next
        # daemon replaces it.
        with contextlib.suppress(OSError, StartError):
            if self.file is not None and _identity(path) == self.file:
                with _locked(os.path.dirname(path)):
                    if _identity(path) == self.file:
                        os.unlink(path)


def adopt(fd: int, plan: SocketPlan, owner: tuple[int, int]) -> Listener:
    """Take over a listening socket that systemd passed.

    Args:
        fd: the passed descriptor.
        plan: the configuration of the socket.
        owner: user ID and group ID for the socket file; -1 leaves one unchanged.

    Raises:
        StartError: it is not a listening Unix stream socket with a path, or its permissions cannot
            be changed.
    """
    if not is_unix_stream(fd, listening=True):
        raise StartError(
            f"the descriptor {plan.name!r} passed by systemd is not a listening Unix stream "
            f"socket: set ListenStream= in its socket unit"
        )
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    ancillary.refuse(sock)
    path, access = sock.getsockname(), plan.access
    if isinstance(path, bytes):
        sock.detach()
        raise StartError(
            f"the {plan.name} socket {path!r} passed by systemd is not a file, so every user may "
            "connect: set a path in ListenStream= of its socket unit"
        )
    if owner != (-1, -1) or access.mode is not None:
        with _os_errors(plan, path), _socket_file(path) as file:
            _chown(file, *owner)
            if access.mode is not None:
                os.chmod(file, access.mode)
    return Listener(sock, file=None)


@contextlib.contextmanager
def _socket_file(path: str) -> Iterator[str]:
    """Yield a path that always refers to this socket file.

    The directory may belong to another user, who could replace the file by a link to another one.

    Raises:
        StartError: it is not a socket.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise StartError(f"{path} is not a socket: restart its socket unit")
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def bind(plan: SocketPlan, owner: tuple[int, int]) -> Listener:
    """Bind a socket and listen on it; replace a socket file on which no process listens.

    Args:
        plan: the configuration of the socket.
        owner: user ID and group ID for the socket file; -1 leaves one unchanged.

    Raises:
        StartError: a process listens on the path, or the path or its owner cannot be set.
    """
    path = plan.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        ancillary.refuse(sock)
        with _os_errors(plan, path), _locked(os.path.dirname(path)):
            _remove_stale(path)
            mode = DEFAULT_MODE if plan.access.mode is None else plan.access.mode
            with _umask(0o777 & ~mode):
                sock.bind(path)
            try:
                file = _identity(path)
                _chown(path, *owner)
                warning = _set_default_group(path, plan)
                sock.listen(BACKLOG)
            except BaseException:
                os.unlink(path)
                raise
    except BaseException:
        sock.close()
        raise
    return Listener(sock, file, warning)


def check(plan: SocketPlan) -> None:
    """Check that a socket can be bound, without binding it or connecting to it.

    A directory in /run may be missing, because it is created after each boot.

    Raises:
        StartError: it cannot be.
    """
    with _os_errors(plan, plan.path):
        check_parent(plan.path, volatile="/run/")
        _is_socket(plan.path)


def _is_socket(path: str) -> bool:
    """Return whether a socket file exists.

    Raises:
        StartError: it is another file.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise StartError(f"{path} exists and is not a socket: remove it or use another path")
    return True


def _remove_stale(path: str) -> None:
    if not _is_socket(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            holder = "a process that does not accept connections"  # It listens: its queue is full.
        else:
            holder = str(peer_of(probe))
    raise StartError(f"{path} is in use by {holder}: stop it or use another path")


def _chown(path: str, uid: int, gid: int) -> None:
    if (uid, gid) != (-1, -1):
        os.chown(path, uid, gid)


def _set_default_group(path: str, plan: SocketPlan) -> str:
    group = plan.access.default_group
    if plan.access.group is not None or group is None:
        return ""
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        reason = "does not exist"
    except PermissionError:
        reason = "does not have the daemon's user as a member"
    else:
        return ""
    return (
        f"only the daemon's own group may connect to {path}: the group {group} {reason}; change "
        f"that, or set [relayd] {plan.name}_group"
    )


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _locked(directory: str) -> contextlib.AbstractContextManager[None]:
    return locked(os.path.join(directory, LOCK_FILE), fcntl.LOCK_EX)


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _os_errors(plan: SocketPlan, path: str) -> Iterator[None]:
    """Turn an `OSError` into a `StartError` that names the socket and a remedy."""
    try:
        yield
    except OSError as error:
        directory = os.path.dirname(path)
        remedy = {
            errno.ENOENT: f"create {directory}",
            errno.EPERM: f"make the daemon's user the owner of {path} and a member of the group "
            f"in {plan.name}_group",
            errno.EACCES: f"give the daemon's user write permission for {directory}",
        }.get(error.errno or 0, "use another path")
        raise StartError(
            f"cannot set up the {plan.name} socket {path}: {error.strerror}; {remedy}"
        ) from error
