# SPDX-License-Identifier: Apache-2.0
"""Who may connect to a socket, and what to say of one who may not.

To connect takes what unix(7) asks for: to search each directory on the way, and to write to the
socket. It is decided here as the kernel decides it, from owner, group and mode or, where a file
has one, from its access control list (acl(5)): so it can be told of others than who asks.
"""

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from notif_relay.connection import connect_error
from notif_relay.errors import PermissionDenied
from notif_relayctl.accounts import Account, group_name, this_process, user_name
from notif_relayctl.errors import CtlError, NotAllowedError, NotRunningError

SUBSCRIBE, PRODUCE, STATUS = "subscribe", "produce", "status"

RIGHTS = (SUBSCRIBE, PRODUCE, STATUS)
"""What a user may be allowed to do, each by one of the sockets."""

CONNECT = WRITE = stat.S_IWOTH
ENTER = stat.S_IXOTH
"""Permissions, in the three bits that each class of users has."""

ACL = "system.posix_acl_access"
_HEADER = struct.calcsize("<I")
_ENTRY = struct.Struct("<HHI")
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""The tags of its entries, as linux/posix_acl.h and posix_acl_xattr.h have them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What keeps somebody from connecting."""

    path: str
    """The socket, or a directory on the way to it."""
    is_directory: bool
    owner: int
    group: int
    joining: int | None
    """The group whose members may, None where no group helps."""

    def sentence(self, who: str) -> str:
        """What is wrong."""
        if self.is_directory:
            return f"{who} may not enter {self.path}"
        refused = f"{who} may not connect to {self.path}, which is for"
        if self.joining is None:
            return f"{refused} {user_name(self.owner)} alone (group {group_name(self.group)})"
        return f"{refused} root and the group {group_name(self.joining)}"

    def remedy(self, user: str) -> str:
        """The command that helps, empty where none of one line does."""
        return "" if self.joining is None else f"usermod -aG {group_name(self.joining)} {user}"


def refusal(path: str, account: Account) -> Refusal | None:
    """What keeps the account from connecting to the socket at `path`; None if it may.

    Raises:
        OSError: it cannot be told, as the socket or its directory cannot be looked at.
    """
    needs = dict.fromkeys(_directories(path), ENTER) | {path: CONNECT}
    for each, need in needs.items():
        if not may(each, account, need):
            status = os.stat(each)
            groups = [gid for gid in _groups(each, status) if gid]
            joined = (replace(account, groups=account.groups | {gid}) for gid in groups)
            joining = (
                gid for gid, member in zip(groups, joined, strict=True) if may(each, member, need)
            )
            is_directory = stat.S_ISDIR(status.st_mode)
            return Refusal(each, is_directory, status.st_uid, status.st_gid, next(joining, None))
    return None


def may(path: str, account: Account, need: int) -> bool:
    """Whether the account has this permission.

    Raises:
        OSError: the file cannot be looked at.
    """
    status = os.stat(path)
    entries = _entries(path, status)
    if account.uid == 0:
        return True
    if account.uid == status.st_uid:
        return all(allowed & need == need for tag, allowed, _ in entries if tag == _OWNER)
    for tag, allowed, user in entries:
        if tag == _USER and user == account.uid:
            return allowed & need == need
    theirs = [allowed for tag, allowed, gid in entries if _is_group(tag) and gid in account.groups]
    others = [allowed for tag, allowed, _ in entries if tag == _OTHERS]
    return any(allowed & need == need for allowed in theirs or others)


def connect_failure(path: str, error: OSError) -> CtlError:
    """Return relayctl's error for a failed attempt to connect to the socket at `path`.

    Returns:
        `NotAllowedError` if this user may not connect, `NotRunningError` if no process listens on
        the socket, `CtlError` for any other error.
    """
    failure = connect_error(path, error)
    if isinstance(failure, PermissionDenied):
        return NotAllowedError(not_allowed(path))
    return CtlError(str(failure)) if failure.running else NotRunningError(str(failure))


def not_allowed(path: str) -> str:
    """Why the socket at `path` refuses this user, and what to do."""
    who = this_process()
    try:
        refused = refusal(path, who)
    except OSError:
        return f"you may not enter {os.path.dirname(path)}: try it as root"
    if refused is None:
        return f"you may not connect to {path}: try it as root"
    remedy = refused.remedy(who.name)
    advice = f"{remedy}, and log in again" if remedy else "try it as root"
    return f"{refused.sentence('you')}: {advice}"


def _directories(path: str) -> Iterator[str]:
    """All that are entered on the way, from the root on, also those where links lead."""
    for each in (os.path.abspath(path), os.path.realpath(path)):
        directory, way = os.path.dirname(each), []
        while directory not in way:
            way.append(directory)
            directory = os.path.dirname(directory)
        yield from reversed(way)


def _entries(path: str, status: os.stat_result) -> list[tuple[int, int, int]]:
    """Tag, permissions and id of each entry; of the three classes where there is no list.

    Nor does the kernel look at a list where the group's bits, which are then its mask, are all
    off (acl_permission_check() in fs/namei.c).
    """
    mode, group = status.st_mode, status.st_gid
    listed: list[tuple[int, ...]] = []
    if mode & stat.S_IRWXG:
        with contextlib.suppress(OSError, struct.error):  # It has none, as most files.
            listed = list(_ENTRY.iter_unpack(os.getxattr(path, ACL)[_HEADER:]))
    if not listed:
        return [(_OWNER, mode >> 6 & 7, 0), (_GROUP, mode >> 3 & 7, group), (_OTHERS, mode & 7, 0)]
    mask = next((allowed for tag, allowed, _ in listed if tag == _MASK), 7)
    return [
        (
            tag,
            allowed if tag in (_OWNER, _OTHERS) else allowed & mask,
            group if tag == _GROUP else qualifier,
        )
        for tag, allowed, qualifier in listed
    ]


def _groups(path: str, status: os.stat_result) -> list[int]:
    return [gid for tag, _, gid in _entries(path, status) if _is_group(tag)]


def _is_group(tag: int) -> bool:
    return tag in (_GROUP, _NAMED_GROUP)
