# SPDX-License-Identifier: Apache-2.0
"""The listening sockets: taken over from systemd, or bound here.

Who may connect is decided by the owner, group and mode of the socket file, so these are right
before anybody can connect. Bound here, a socket gets its mode from the umask, its owner and group
next, and only then listens: until then a connect is refused, whoever tries. An inherited socket
is open to whom its unit says until the daemon is up; what the daemon's own configuration sets
then holds.

A socket file outlives its process. One that nobody listens on any more is replaced. So that two
daemons that start at once do not replace each other's, a file beside it is locked meanwhile. It is
the daemon's own: any user who can open a file can lock it, and the directory is open to all.
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

from systemd import daemon

from notif_relayd.errors import StartError
from notif_relayd.escaping import printable
from notif_relayd.net import ancillary
from notif_relayd.peer import peer_of
from notif_relayd.settings import SocketPlan

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn."""

MAX_PATH = 107
"""Bytes of the longest socket path (unix(7): sun_path holds 108 with the final NUL)."""

DEFAULT_MODE = 0o660

LOCK_FILE = ".notif-relayd.lock"
"""Beside a socket, while it is bound or removed; mode 0600."""


@dataclass(slots=True)
class Listener:
    """A listening socket, and the file to remove with it."""

    socket: socket.socket
    file: tuple[int, int] | None
    """Device and inode of the file that was bound here; `None` for an inherited socket."""
    remark: str = ""
    """For the log: what was not done and how to have it done."""

    @property
    def bound_here(self) -> bool:
        """Whether the daemon made the socket."""
        return self.file is not None

    def own(self) -> None:
        """Let those who connect see this process, and not the one that went to the background."""
        if self.bound_here:
            self.socket.listen(BACKLOG)  # listen(2) notes the caller for SO_PEERCRED.

    def close(self) -> None:
        """Close it; remove the file that the daemon made, but not one that has replaced it."""
        path = self.socket.getsockname()
        ancillary.close_listener(self.socket)
        # A successor binds under the same lock. Without it, the file stays, to be replaced later.
        with contextlib.suppress(OSError, StartError):
            if self.file is not None and _identity(path) == self.file:
                with _locked(os.path.dirname(path)):
                    if _identity(path) == self.file:
                        os.unlink(path)


def passed() -> list[tuple[str, int]]:
    """The descriptors that systemd passes, each with its name (sd_listen_fds_with_names(3)).

    Raises:
        StartError: the environment variables contradict each other or the open descriptors.
    """
    told = {name: os.environ.get(name) for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    try:
        named = daemon.listen_fds_with_names(unset_environment=True)
    except OSError as error:
        environment = " ".join(f"{name}={value}" for name, value in told.items() if value)
        raise StartError(
            f"the descriptors that {printable(environment)} announces cannot be used: "
            f"{error.strerror}; leave these variables to systemd"
        ) from error
    return [(name, fd) for fd, name in named.items()]


def adopt(fd: int, plan: SocketPlan, owner: tuple[int, int]) -> Listener:
    """Take over a listening socket that systemd passed.

    Args:
        fd: the passed descriptor.
        plan: the configuration of the socket.
        owner: user ID and group ID for the socket file; -1 leaves one unchanged.

    Raises:
        StartError: it is no listening stream socket, or may not be given what is configured.
    """
    if not daemon.is_socket_unix(fd, socket.SOCK_STREAM, listening=1):
        raise StartError(
            f"the descriptor {plan.name!r} passed by systemd is no listening Unix stream socket: "
            f"set ListenStream= in its socket unit"
        )
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    ancillary.refuse(sock)
    path, access = sock.getsockname(), plan.access
    with _blaming(plan, path):
        _chown(path, *owner)
        if access.mode is not None:
            os.chmod(path, access.mode)
    return Listener(sock, file=None)


def bind(plan: SocketPlan, owner: tuple[int, int]) -> Listener:
    """Bind a socket and listen on it; replace a socket file on which no process listens.

    Args:
        plan: the configuration of the socket.
        owner: user ID and group ID for the socket file; -1 leaves one unchanged.

    Raises:
        StartError: somebody listens there, or the path, user or group cannot be used.
    """
    path = plan.path
    if len(os.fsencode(path)) > MAX_PATH:
        raise StartError(f"{path} is longer than {MAX_PATH} bytes: use a shorter {plan.name} path")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        ancillary.refuse(sock)
        with _blaming(plan, path), _locked(os.path.dirname(path)):
            _remove_stale(path)
            mode = DEFAULT_MODE if plan.access.mode is None else plan.access.mode
            with _umask(0o777 & ~mode):
                sock.bind(path)
            file = _identity(path)
            _chown(path, *owner)
            remark = _usual_group(path, plan)
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, file, remark)


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StartError(f"{path} exists and is no socket: remove it or use another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            holder = "a process that accepts nothing"  # Its queue is full: it listens.
        else:
            holder = str(peer_of(probe))
    raise StartError(f"{path} is in use by {holder}: stop it or use another path")


def _chown(path: str, uid: int, gid: int) -> None:
    if (uid, gid) != (-1, -1):
        os.chown(path, uid, gid)


def _usual_group(path: str, plan: SocketPlan) -> str:
    group = plan.access.usual_group
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
        f"{path} is open to the daemon's own group only, because the group {group} {reason}: "
        f"see to that, or set [relayd] {plan.name}_group"
    )


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    path = os.path.join(directory, LOCK_FILE)
    fd = _lock(path)
    try:
        yield
    finally:
        # While it is locked: the next daemon notices that, and makes another.
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(fd)


def _lock(path: str) -> int:
    while True:
        fd = _open_own(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.lstat(path)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # The one who had it has removed it.


def _open_own(path: str) -> int:
    """Open or make a file that no other user can have opened."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        # A directory, a link, a socket, or another user's; or no file can be made there at all.
        if error.errno == errno.ENOENT or not os.path.lexists(path):
            raise
    else:
        status = os.fstat(fd)
        mine = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        if stat.S_ISREG(status.st_mode) and mine:
            return fd
        os.close(fd)
    raise StartError(
        f"{path} is not a file that only the daemon's user, uid {os.geteuid()}, can open: remove it"
    )


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _blaming(plan: SocketPlan, path: str) -> Iterator[None]:
    """Turn what the kernel says into what the operator can do."""
    try:
        yield
    except OSError as error:
        directory = os.path.dirname(path)
        advice = {
            errno.ENOENT: f"create {directory}",
            errno.EPERM: f"let the daemon's user be owner of {path} and a member of the group "
            f"in {plan.name}_group",
            errno.EACCES: f"let the daemon's user write to {directory}",
        }.get(error.errno or 0, "use another path")
        raise StartError(
            f"the {plan.name} socket {path} cannot be set up: {error.strerror}; {advice}"
        ) from error
