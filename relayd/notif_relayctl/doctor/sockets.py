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
from notif_relayctl.access import AS_ROOT, SEARCH, WRITE, connect_failure, is_permitted
from notif_relayctl.accounts import Account, account, group_name, user_name
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayctl.doctor.host import Host, RelaySocket
from notif_relayctl.doctor.units import SERVICE_UNIT, UnitsUnknownError
from notif_relayctl.errors import NotAllowedError, NotRunningError
from notif_relayd.control.schema import Status
from notif_relayd.systemd.environment import booted


def directories(host: Host) -> Iterator[Finding]:
    """Check the directories of the sockets, which usually are one directory."""
    for path in dict.fromkeys(os.path.dirname(each.path) for each in host.sockets):
        check = f"directory {path}"
        try:
            status = os.stat(path)
        except PermissionError:
            yield Finding(check, SKIPPED, "you may not examine it", AS_ROOT)
        except OSError:
            if isinstance(host.units, UnitsUnknownError):
                make = f"install -d -m 755 -o USER {path}, where USER is the daemon's user"
            else:
                make = "systemd-tmpfiles --create notif-relayd.conf"
            yield Finding(check, FAILED, "the directory does not exist", make)
        else:
            yield from list(_directory(host, check, path, status)) or [
                Finding(check, OK, f"it is {_access(status)}")
            ]


def _directory(host: Host, check: str, path: str, status: os.stat_result) -> Iterator[Finding]:
    if not stat.S_ISDIR(status.st_mode):
        yield Finding(
            check, FAILED, "it is not a directory", "remove it, or set another path in relayd.conf"
        )
        return
    if status.st_mode & stat.S_IWOTH:
        yield Finding(
            check,
            WARNING,
            f"every user may create sockets in it: it is {_access(status)}",
            f"chmod o-w {path}",
        )
    if not status.st_mode & stat.S_IXOTH:
        yield Finding(
            check,
            WARNING,
            f"only its owner and its group may enter it, even if a socket is open to other users: "
            f"it is {_access(status)}",
            f"chmod o+x {path}",
        )
    daemon = _daemon(host)
    if daemon and not is_permitted(path, daemon, WRITE | SEARCH):
        yield Finding(
            check,
            FAILED,
            f"the daemon's user {daemon.name} may not create a socket in it: it is "
            f"{_access(status)}",
            f"chown {daemon.name} {path}",
        )


def _daemon(host: Host) -> Account | None:
    """Return the daemon's user, if known."""
    try:
        if isinstance(host.status, Status):
            return account(str(os.stat(f"/proc/{host.status.pid}").st_uid))
        if not isinstance(host.units, UnitsUnknownError) and host.units[SERVICE_UNIT]["User"]:
            return account(host.units[SERVICE_UNIT]["User"])
    except (OSError, LookupError):
        pass
    return None


def files(host: Host) -> Iterator[Finding]:
    """Check the file of each socket, and its owner, group and mode."""
    for socket in host.sockets:
        check = f"socket {socket.name}"
        try:
            status = os.stat(socket.path)
        except PermissionError:
            directory = os.path.dirname(socket.path)
            yield Finding(check, SKIPPED, f"you may not enter {directory}", AS_ROOT)
        except OSError:
            yield _missing(host, socket, check)
        else:
            yield from list(_file(socket, check, status)) or [
                Finding(check, OK, f"{socket.path} is {_access(status)}")
            ]


def _missing(host: Host, socket: RelaySocket, check: str) -> Finding:
    missing = f"{socket.path} does not exist"
    if socket is host.control:
        return Finding(check, SKIPPED, f"{missing}; the daemon creates it when it starts")
    return Finding(check, FAILED, missing, host.start)


def _file(socket: RelaySocket, check: str, status: os.stat_result) -> Iterator[Finding]:
    path, access = socket.path, socket.access
    actual = f"{path} is {_access(status)}"
    if not stat.S_ISSOCK(status.st_mode):
        yield Finding(check, FAILED, f"{path} is not a socket", "remove it, then restart the relay")
        return
    permanent = f"and set [relayd] {socket.name}_mode" + (
        f", or SocketMode= of {socket.unit.name}" if socket.unit else ""
    )
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH:
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
    for socket in (host.public, host.ingest):
        check = f"listening {socket.name}"
        if not os.path.exists(socket.path):
            continue  # `files` has reported it.
        if host.listens(socket):
            listener = "systemd" if socket.unit else "the relay"
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


def _access(status: os.stat_result) -> str:
    """Return mode, owner and group, for example `0660 notif-relayd:notif-producers`."""
    mode = stat.S_IMODE(status.st_mode)
    return f"{mode:04o} {user_name(status.st_uid)}:{group_name(status.st_gid)}"
