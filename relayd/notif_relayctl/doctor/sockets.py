# SPDX-License-Identifier: Apache-2.0
"""The sockets' files and directories: are they there, for the right people, and listened on.

A socket's owner, group and mode are its access control, so one that differs from what relayd.conf
sets, or from the usual where it sets nothing, is told of even if everything works.
"""

import grp
import os
import stat
from collections.abc import Iterator

from notif_relay.connection import Connection
from notif_relayctl.access import SEARCH, WRITE, connect_failure, is_permitted
from notif_relayctl.accounts import Account, account, group_name, user_name
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayctl.doctor.host import Host, RelaySocket
from notif_relayctl.doctor.units import SERVICE_UNIT, UnitsUnknownError, booted
from notif_relayctl.errors import NotAllowedError, NotRunningError
from notif_relayd.control.schema import Status

AS_ROOT = "try it as root"


def directories(host: Host) -> Iterator[Finding]:
    """Where the sockets are, which mostly is one directory."""
    for path in dict.fromkeys(os.path.dirname(each.path) for each in host.sockets):
        check = f"directory {path}"
        try:
            status = os.stat(path)
        except PermissionError:
            yield Finding(check, SKIPPED, "you may not look at it", AS_ROOT)
        except OSError:
            if isinstance(host.units, UnitsUnknownError):
                make = f"install -d -m 755 -o USER {path}, USER being the daemon's"
            else:
                make = "systemd-tmpfiles --create notif-relayd.conf"
            yield Finding(check, FAILED, "there is no such directory", make)
        else:
            yield from list(_directory(host, check, path, status)) or [
                Finding(check, OK, f"it is {_access(status)}")
            ]


def _directory(host: Host, check: str, path: str, status: os.stat_result) -> Iterator[Finding]:
    if not stat.S_ISDIR(status.st_mode):
        yield Finding(
            check, FAILED, "it is no directory", "remove it, or set another in relayd.conf"
        )
        return
    if status.st_mode & stat.S_IWOTH:
        yield Finding(
            check,
            WARNING,
            f"everybody may put sockets of their own there: it is {_access(status)}",
            f"chmod o-w {path}",
        )
    if not status.st_mode & stat.S_IXOTH:
        yield Finding(
            check,
            WARNING,
            f"not everybody may enter it, whatever a socket's group: it is {_access(status)}",
            f"chmod o+x {path}",
        )
    daemon = _daemon(host)
    if daemon and not is_permitted(path, daemon, WRITE | SEARCH):
        yield Finding(
            check,
            FAILED,
            f"the daemon's user {daemon.name} may not make a socket there: it is {_access(status)}",
            f"chown {daemon.name} {path}",
        )


def _daemon(host: Host) -> Account | None:
    """The daemon's user, where that is known."""
    try:
        if isinstance(host.status, Status):
            return account(str(os.stat(f"/proc/{host.status.pid}").st_uid))
        if not isinstance(host.units, UnitsUnknownError) and host.units[SERVICE_UNIT]["User"]:
            return account(host.units[SERVICE_UNIT]["User"])
    except (OSError, LookupError):
        pass
    return None


def files(host: Host) -> Iterator[Finding]:
    """Each socket's file, and who may connect to it."""
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
    missing = f"{socket.path} is not there"
    if socket is host.control:
        return Finding(check, SKIPPED, f"{missing}: it is while the daemon runs")
    return Finding(check, FAILED, missing, host.start)


def _file(socket: RelaySocket, check: str, status: os.stat_result) -> Iterator[Finding]:
    path, access = socket.path, socket.access
    seen = f"{path} is {_access(status)}"
    if not stat.S_ISSOCK(status.st_mode):
        yield Finding(check, FAILED, f"{path} is no socket", "remove it, and start the relay anew")
        return
    lasting = f"and set [relayd] {socket.name}_mode" + (
        f", or SocketMode= of {socket.unit.name}" if socket.unit else ""
    )
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH:
        yield Finding(
            check,
            WARNING,
            f"everybody on this host may connect: {seen}",
            f"chmod o= {path}, {lasting} = 0660",
        )
    elif not mode & stat.S_IWGRP and mode != access.mode:
        yield Finding(
            check,
            FAILED,
            f"its group may not connect: {seen}",
            f"chmod g+rw {path}, {lasting} = 0660",
        )
    if access.user and user_name(status.st_uid) != access.user:
        yield Finding(
            check,
            WARNING,
            f"its owner is not {access.user}, which relayd.conf sets: {seen}",
            "restart the relay",
        )
    group = access.group or access.usual_group
    if group and group_name(status.st_gid) != group:
        yield _other_group(check, path, group, seen)


def _other_group(check: str, path: str, group: str, seen: str) -> Finding:
    try:
        grp.getgrnam(group)
    except KeyError:
        return Finding(
            check,
            WARNING,
            f"there is no group {group}, whose members should be able to connect: {seen}",
            f"groupadd --system {group}, and restart the relay",
        )
    return Finding(check, WARNING, f"its group is not {group}: {seen}", f"chgrp {group} {path}")


def listeners(host: Host, connecting: bool) -> Iterator[Finding]:
    """Whether a socket's file is more than a file.

    Args:
        connecting: whether a socket on which nobody is known to listen may be connected to.
    """
    for socket in (host.public, host.ingest):
        check = f"listening {socket.name}"
        if not os.path.exists(socket.path):
            continue  # `files` has said all.
        if host.listens(socket):
            who = "systemd" if socket.unit else "the relay"
            yield Finding(check, OK, f"{who} listens on {socket.path}")
        else:
            yield _unlisted(host, socket.path, check, connecting)
    yield _daemon_answers(host)


def _unlisted(host: Host, path: str, check: str, connecting: bool) -> Finding:
    where = "" if connecting else ", as far as the kernel tells here"
    try:
        if connecting:
            Connection(path).close()
            return Finding(check, OK, f"somebody listens on {path}")
    except OSError as error:
        failure = connect_failure(path, error)
        if isinstance(failure, NotAllowedError):
            return Finding(check, SKIPPED, f"nobody is known to listen on {path}", AS_ROOT)
        if not isinstance(failure, NotRunningError):
            return Finding(check, FAILED, str(failure), "restart the relay")
    return Finding(check, FAILED, f"nobody listens on {path}{where}", host.start)


def _daemon_answers(host: Host) -> Finding:
    check = "listening control"
    status = host.status
    if isinstance(status, Status):
        return Finding(check, OK, f"the daemon answers: pid {status.pid}, version {status.version}")
    if isinstance(status, NotAllowedError):
        return Finding(check, SKIPPED, str(status))
    if isinstance(status, NotRunningError):
        # Without a bus only root is told of units; somebody else's listening has to do.
        if host.public.unit or (booted() and host.listens(host.public)):
            return Finding(check, OK, "the daemon is not running: the first connection starts it")
        return Finding(check, FAILED, "the daemon is not running", host.start)
    return Finding(check, FAILED, str(status), "restart the relay")


def _access(status: os.stat_result) -> str:
    """Mode, owner and group, for instance `0660 notif-relayd:notif-producers`."""
    mode = stat.S_IMODE(status.st_mode)
    return f"{mode:04o} {user_name(status.st_uid)}:{group_name(status.st_gid)}"
