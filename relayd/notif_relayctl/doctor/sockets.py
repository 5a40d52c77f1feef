# SPDX-License-Identifier: Apache-2.0
"""Check the files of the sockets, their directories, and whether a process listens on them.

Owner, group and mode of a socket are its access control. A difference from relayd.conf, or from the
default if it sets nothing, is therefore reported even if everything works.
"""

import grp
import os
import stat
from collections.abc import Iterator

from notif_relay.connection import Connection
from notif_relayctl.access import (
    AS_ROOT,
    SEARCH,
    WRITE,
    connect_failure,
    in_runtime_dir,
    is_permitted,
)
from notif_relayctl.accounts import group_name, user_name
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayctl.doctor.host import ANOTHER_DIRECTORY, Host, RelaySocket
from notif_relayctl.doctor.units import UnitsUnknownError
from notif_relayctl.errors import NotAllowedError, NotRunningError
from notif_relayctl.instances import instance_of
from notif_relayd.control.schema import Status
from notif_relayd.systemd.environment import booted

KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
"""Names of the kinds of files."""


def directories(host: Host) -> Iterator[Finding]:
    """Check the directories of the sockets, which usually are one directory."""
    for path in dict.fromkeys(each.directory for each in host.sockets):
        check = f"directory {path}"
        try:
            status = os.stat(path)
        except PermissionError:
            yield Finding(check, SKIPPED, "you may not examine it", AS_ROOT)
        except OSError:
            yield Finding(check, FAILED, "the directory does not exist", _make(host, path))
        else:
            yield from list(_directory(host, check, path, status)) or [
                Finding(check, OK, f"it is {_access(status)}")
            ]


def _make(host: Host, path: str) -> str:
    if any(each.unit and each.directory == path for each in host.sockets) and not in_runtime_dir(
        path
    ):
        return (
            f"add RuntimeDirectoryPreserve=yes to the unit whose RuntimeDirectory= is {path}, then "
            f"systemctl restart {host.names.public}"
        )
    if not in_runtime_dir(path):
        return "start the service that it belongs to, or set another path in relayd.conf"
    if isinstance(host.units, UnitsUnknownError):
        return f"install -d -m 755 -o USER {path}, where USER is the daemon's user"
    if instance_of(path) is not None:
        return host.start
    return "systemd-tmpfiles --create notif-relayd.conf"


def _directory(host: Host, check: str, path: str, status: os.stat_result) -> Iterator[Finding]:
    if not stat.S_ISDIR(status.st_mode):
        yield Finding(check, FAILED, f"it is {_kind(status)}, not a directory", ANOTHER_DIRECTORY)
        return
    own = host.owns(path)
    if status.st_mode & stat.S_IWOTH:
        yield Finding(
            check,
            WARNING,
            f"every user may create sockets in it: it is {_access(status)}",
            f"chmod o-w {path}" if own else ANOTHER_DIRECTORY,
        )
    if not status.st_mode & stat.S_IXOTH:
        yield Finding(
            check,
            WARNING,
            f"only its owner and its group may enter it, even if a socket is open to other users: "
            f"it is {_access(status)}",
            f"chmod o+x {path}" if own else ANOTHER_DIRECTORY,
        )
    daemon = host.daemon
    binds = any(each.unit is None and each.directory == path for each in host.sockets)
    if binds and daemon and not is_permitted(path, daemon, WRITE | SEARCH):
        yield Finding(
            check,
            FAILED,
            f"the daemon's user {daemon.name} may not create a socket in it: it is "
            f"{_access(status)}",
            f"chown {daemon.name} {path}" if own else ANOTHER_DIRECTORY,
        )


def files(host: Host) -> Iterator[Finding]:
    """Check the file of each socket, and its owner, group and mode."""
    for socket in host.sockets:
        check = f"socket {socket.name}"
        try:
            status = os.stat(socket.path)
        except PermissionError:
            yield Finding(check, SKIPPED, f"you may not enter {socket.directory}", AS_ROOT)
        except OSError:
            yield _missing(host, socket, check)
        else:
            foreign = _foreign(host, socket, check, status)
            yield from (
                [foreign]
                if foreign
                else list(_file(socket, check, status))
                or [Finding(check, OK, f"{socket.path} is {_access(status)}")]
            )


def _missing(host: Host, socket: RelaySocket, check: str) -> Finding:
    missing = f"{socket.path} does not exist"
    if socket is host.control:
        return Finding(check, SKIPPED, f"{missing}; the daemon creates it when it starts")
    return Finding(check, FAILED, missing, host.start)


def _foreign(host: Host, socket: RelaySocket, check: str, status: os.stat_result) -> Finding | None:
    """Return a finding about a file that is not known to be the relay's; `None` if it is."""
    path, another = socket.path, f"set another path for the {socket.name} socket in relayd.conf"
    if not stat.S_ISSOCK(status.st_mode):
        finding = f"{path} is not a socket, but {_kind(status)}"
        advice = f"{another}, or move the file away" if in_runtime_dir(path) else another
        return Finding(check, FAILED, finding, advice)
    if host.is_relays(socket):
        return None
    if host.listens(socket) and isinstance(host.status, Status | NotRunningError):
        finding = f"a process listens on {path}, but no relay is known to"
        return Finding(check, FAILED, finding, another)
    return Finding(check, OK, f"{path} is {_access(status)}")


def _file(socket: RelaySocket, check: str, status: os.stat_result) -> Iterator[Finding]:
    path, access = socket.path, socket.access
    actual = f"{path} is {_access(status)}"
    permanent = f"and set [relayd] {socket.name}_mode" + (
        f", or SocketMode= of {socket.unit.name}" if socket.unit else ""
    )
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH and (mode != access.mode or socket.allowed is None):
        yield Finding(
            check,
            WARNING,
            f"every user of this host may connect: {actual}",
            f"chmod o= {path}, {permanent} = 0660",
        )
    elif not mode & stat.S_IWGRP and mode != access.mode:
        yield Finding(
            check,
            FAILED,
            f"its group may not connect: {actual}",
            f"chmod g+rw {path}, {permanent} = 0660",
        )
    if access.user and user_name(status.st_uid) != access.user:
        yield Finding(
            check,
            WARNING,
            f"its owner is not {access.user}, as set in relayd.conf: {actual}",
            "restart the relay",
        )
    group = access.group or access.default_group
    if group and group_name(status.st_gid) != group:
        yield _other_group(check, path, group, actual)


def _other_group(check: str, path: str, group: str, actual: str) -> Finding:
    try:
        grp.getgrnam(group)
    except KeyError:
        return Finding(
            check,
            WARNING,
            f"the group {group}, whose members should have access, does not exist: {actual}",
            f"groupadd --system {group}, then restart the relay",
        )
    return Finding(check, WARNING, f"its group is not {group}: {actual}", f"chgrp {group} {path}")


def listeners(host: Host, connecting: bool) -> Iterator[Finding]:
    """Check whether a process listens on each socket, and whether the daemon answers.

    Args:
        host: the relay and its sockets.
        connecting: whether to connect to a socket on which no process is known to listen.
    """
    for socket in host.sockets:
        if socket is host.control:
            continue
        check = f"listening {socket.name}"
        if not os.path.exists(socket.path):
            continue  # `files` has reported it.
        if host.listens(socket):
            by_daemon = "the relay" if host.is_relays(socket) else "a process"
            listener = "systemd" if socket.unit else by_daemon
            yield Finding(check, OK, f"{listener} listens on {socket.path}")
        else:
            yield _unlisted(host, socket.path, check, connecting)
    yield _daemon_answers(host)


def _unlisted(host: Host, path: str, check: str, connecting: bool) -> Finding:
    where = "" if connecting else " of this network namespace"
    try:
        if connecting:
            Connection(path).close()
            return Finding(check, OK, f"a process listens on {path}")
    except OSError as error:
        failure = connect_failure(path, error)
        if isinstance(failure, NotAllowedError):
            return Finding(check, SKIPPED, f"no process is known to listen on {path}", AS_ROOT)
        if not isinstance(failure, NotRunningError):
            return Finding(check, FAILED, str(failure), "restart the relay")
    return Finding(check, FAILED, f"no process{where} listens on {path}", host.start)


def _daemon_answers(host: Host) -> Finding:
    check = "listening control"
    status = host.status
    if isinstance(status, Status):
        return Finding(check, OK, f"the daemon answers: pid {status.pid}, version {status.version}")
    if isinstance(status, NotAllowedError):
        return Finding(check, SKIPPED, str(status))
    if isinstance(status, NotRunningError):
        # Without D-Bus, only root can query the units. Otherwise a listening process is assumed to
        # be systemd.
        if host.public.unit or (booted() and host.listens(host.public)):
            return Finding(check, OK, "the daemon is not running; the first connection starts it")
        return Finding(check, FAILED, "the daemon is not running", host.start)
    return Finding(check, FAILED, str(status), "restart the relay")


def _kind(status: os.stat_result) -> str:
    """Return the kind of a file, for example `a regular file`."""
    return KINDS.get(stat.S_IFMT(status.st_mode), "a special file")


def _access(status: os.stat_result) -> str:
    """Return mode, owner and group, for example `0660 notif-relayd:notif-producers`."""
    mode = stat.S_IMODE(status.st_mode)
    return f"{mode:04o} {user_name(status.st_uid)}:{group_name(status.st_gid)}"
