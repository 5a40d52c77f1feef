# SPDX-License-Identifier: Apache-2.0
"""Permission to connect to a socket, and the errors of failed connections.

unix(7): connecting requires search permission for each directory of the path and write permission
for the socket. The decision is made here as in the kernel, from owner, group and mode or, if a file
has one, from its access control list (acl(5)), so that relayctl can decide for other users as well.
"""

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from notif_relay import paths
from notif_relay.connection import connect_error
from notif_relay.errors import PermissionDenied, RelayError, RelayUnavailable, SubscriptionRefused
from notif_relayctl.accounts import Account, group_name, this_process, user_name
from notif_relayctl.errors import CtlError, NotAllowedError, NotRunningError

SUBSCRIBE, PRODUCE, STATUS = "subscribe", "produce", "status"

RIGHTS = (SUBSCRIBE, PRODUCE, STATUS)
"""The rights of a user; each is the permission to connect to one of the sockets."""

CONNECT = WRITE = stat.S_IWOTH
READ = stat.S_IROTH
SEARCH = stat.S_IXOTH
"""Permissions, as the three bits of one class of users."""

AS_ROOT = "run it as root"

GROUPS = ("notif-subscribers", "notif-producers", "notif-relayd")
"""The groups of the relay's sockets unless relayd.conf sets others."""

BRIDGE_DIRECTORY = "/run/notif-relayd-bridge"
"""Directory with the directories of the bridges' status sockets."""

ACL = "system.posix_acl_access"
_HEADER = struct.calcsize("<I")
_ENTRY = struct.Struct("<HHI")
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""Format and tags of the entries of a list (linux/posix_acl.h and posix_acl_xattr.h)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The first file on the way to a socket that an account has no permission for."""

    path: str
    """The socket, or a directory of its path."""
    is_directory: bool
    owner: int
    group: int
    required_group: int | None
    """A group whose members have the permission; `None` if there is none except root's."""

    def sentence(self, subject: str) -> str:
        """Return the reason as a sentence; `subject` names the user."""
        if self.is_directory:
            return f"{subject} may not enter {self.path}"
        refused = f"{subject} may not connect to {self.path}"
        if self.required_group is None:
            return f"{refused}, which belongs to {user_name(self.owner)}:{group_name(self.group)}"
        return f"{refused}: access requires membership in group {group_name(self.required_group)}"

    def remedy(self, user: str) -> str:
        """Return the command that gives the user access, or "" if joining a group does not help."""
        if self.required_group is None:
            return ""
        return f"usermod -aG {group_name(self.required_group)} {user}"


def refusal(path: str, account: Account, need: int = CONNECT) -> Refusal | None:
    """Return why the account may not connect to the socket at `path`; `None` if it may.

    Args:
        path: the socket, or another file.
        account: the user.
        need: the permission for the file.

    Raises:
        OSError: this process may not examine the file or one of its directories.
    """
    needs = dict.fromkeys(_directories(path), SEARCH) | {path: need}
    for each, needed in needs.items():
        if not is_permitted(each, account, needed):
            status = os.stat(each)
            groups = [gid for gid in _groups(each, status) if gid]
            members = (replace(account, groups=account.groups | {gid}) for gid in groups)
            helpful = (
                gid
                for gid, member in zip(groups, members, strict=True)
                if is_permitted(each, member, needed)
            )
            is_directory = stat.S_ISDIR(status.st_mode)
            return Refusal(each, is_directory, status.st_uid, status.st_gid, next(helpful, None))
    return None


def is_permitted(path: str, account: Account, need: int) -> bool:
    """Return whether the account has the permission `need` for a file.

    Raises:
        OSError: this process may not examine the file.
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
    # If an entry of one of the account's groups exists, the entry for others does not apply.
    by_group = [
        allowed for tag, allowed, gid in entries if _is_group(tag) and gid in account.groups
    ]
    others = [allowed for tag, allowed, _ in entries if tag == _OTHERS]
    return any(allowed & need == need for allowed in by_group or others)


def connect_failure(path: str, error: OSError) -> CtlError:
    """Return relayctl's error for a failed attempt to connect to the socket at `path`.

    Returns:
        `NotAllowedError` if this user may not connect, `NotRunningError` if no process listens on
        the socket, `CtlError` for any other error.
    """
    failure = connect_error(path, error)
    if isinstance(failure, RelayUnavailable) and failure.running:
        return CtlError(str(failure))
    return relay_failure(failure)


def relay_failure(error: RelayError) -> CtlError:
    """Return relayctl's error for an error of the library.

    Returns:
        `NotAllowedError` if this user may not connect or the relay refuses the connection,
        `NotRunningError` if the relay is not available, `CtlError` for any other error.
    """
    if isinstance(error, PermissionDenied):
        return NotAllowedError(not_allowed(error.path))
    if isinstance(error, SubscriptionRefused):
        return NotAllowedError(str(error))
    if isinstance(error, RelayUnavailable):
        return NotRunningError(str(error))
    return CtlError(str(error))


def not_allowed(path: str) -> str:
    """Return why this process may not connect to the socket at `path`, and the remedy."""
    process = this_process()
    try:
        refused = refusal(path, process)
    except OSError:
        return f"you may not enter {os.path.dirname(path)}; {AS_ROOT}"
    if refused is None:
        return f"you may not connect to {path}; {AS_ROOT}"
    remedy = refused.remedy(process.name) if belongs_to_relay(refused) else ""
    advice = f"run '{remedy}' as root, then log in again" if remedy else AS_ROOT
    return f"{refused.sentence('you')}; {advice}"


def in_runtime_dir(path: str) -> bool:
    """Return whether a path is the relay's default directory or below it."""
    return f"{os.path.normpath(path)}/".startswith(f"{paths.RUNTIME_DIR}/")


def belongs_to_relay(refused: Refusal) -> bool:
    """Return whether a file belongs to a relay or bridge, so that a user may join its group."""
    if in_runtime_dir(refused.path) or refused.path.startswith(f"{BRIDGE_DIRECTORY}/"):
        return True
    if refused.is_directory:
        return False
    beside = os.path.join(os.path.dirname(refused.path), paths.CONTROL_SOCKET)
    return group_name(refused.group) in GROUPS or is_socket(beside)


def is_socket(path: str) -> bool:
    """Return whether a path is known to be a socket."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _directories(path: str) -> Iterator[str]:
    """Yield the directories to search, from the root on; also those that links lead to."""
    for each in (os.path.abspath(path), os.path.realpath(path)):
        directory, parents = os.path.dirname(each), []
        while directory not in parents:
            parents.append(directory)
            directory = os.path.dirname(directory)
        yield from reversed(parents)


def _entries(path: str, status: os.stat_result) -> list[tuple[int, int, int]]:
    """Return tag, permissions and id of each entry of the access control list.

    If the file has no list, return the entries of the three classes of its mode. The kernel also
    ignores the list if the bits of the group, which are the mask of the list, are all clear
    (acl_permission_check() in fs/namei.c).
    """
    mode, group = status.st_mode, status.st_gid
    listed: list[tuple[int, ...]] = []
    if mode & stat.S_IRWXG:
        with contextlib.suppress(OSError, struct.error):  # Most files have no list.
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
