# SPDX-License-Identifier: Apache-2.0
"""The listening sockets: taken over from systemd, or bound here.

Who may connect is decided by the owner, group and mode of the socket file, so these are right
before anybody can connect. Bound here, a socket gets its mode from the umask, its owner and group
next, and only then listens: until then a connect is refused, whoever tries. An inherited socket
is open to whom its unit says until the daemon is up; what the daemon's own configuration sets
then holds.

A socket file outlives its process. One that nobody listens on any more is replaced. So that two
daemons starting at once do not replace each other's, the directory is locked meanwhile.
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

from notif_relayd import ancillary
from notif_relayd.accounts import group_id, user_id
from notif_relayd.errors import StartError
from notif_relayd.peer import peer_of

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn."""

MAX_PATH = 107
"""Bytes of the longest socket path (unix(7): sun_path holds 108 with the final NUL)."""

DEFAULT_MODE = 0o660


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect, as far as the configuration says; `None` leaves it as it comes."""

    mode: int | None = None
    user: str | None = None
    group: str | None = None
    usual_group: str | None = None
    """The group for a socket bound here when none is configured and this one exists."""


@dataclass(frozen=True, slots=True)
class SocketPlan:
    """One of the relay's sockets, as it should be."""

    name: str
    """In systemd's terms its FileDescriptorName=, and the prefix of its options."""
    path: str
    access: Access


@dataclass(slots=True)
class Listener:
    """A listening socket, and who has to remove its file."""

    socket: socket.socket
    bound_here: bool
    remark: str = ""
    """For the log: what was not done and how to have it done."""

    def own(self) -> None:
        """Let those who connect see this process, and not the one that went to the background."""
        if self.bound_here:
            self.socket.listen(BACKLOG)  # listen(2) notes the caller for SO_PEERCRED.

    def close(self) -> None:
        """Close it; remove the file where the daemon made it."""
        path = self.socket.getsockname()
        self.socket.close()
        if self.bound_here:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def passed() -> list[tuple[str, int]]:
    """The descriptors that systemd passes, each with its name (sd_listen_fds_with_names(3))."""
    named = daemon.listen_fds_with_names(unset_environment=True)
    return [(name, fd) for fd, name in named.items()]


def adopt(fd: int, plan: SocketPlan) -> Listener:
    """Take over a socket that systemd holds.

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
        _chown(path, _user_id(plan), _group_id(plan))
        if access.mode is not None:
            os.chmod(path, access.mode)
    return Listener(sock, bound_here=False)


def bind(plan: SocketPlan) -> Listener:
    """Bind and listen; replace a file that nobody listens on.

    Raises:
        StartError: somebody listens there, or the path, user or group cannot be used.
    """
    path = plan.path
    if len(os.fsencode(path)) > MAX_PATH:
        raise StartError(f"{path} is longer than {MAX_PATH} bytes: use a shorter {plan.name} path")
    uid, gid = _user_id(plan), _group_id(plan)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        ancillary.refuse(sock)
        with _blaming(plan, path), _locked(os.path.dirname(path)):
            _remove_stale(path)
            mode = DEFAULT_MODE if plan.access.mode is None else plan.access.mode
            with _umask(0o777 & ~mode):
                sock.bind(path)
            _chown(path, uid, gid)
            remark = _usual_group(path, plan)
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, bound_here=True, remark=remark)


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


def _user_id(plan: SocketPlan) -> int:
    user = plan.access.user
    return -1 if user is None else user_id(f"[relayd] {plan.name}_user", user)


def _group_id(plan: SocketPlan) -> int:
    group = plan.access.group
    return -1 if group is None else group_id(f"[relayd] {plan.name}_group", group)


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


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
