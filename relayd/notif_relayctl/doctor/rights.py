# SPDX-License-Identifier: Apache-2.0
"""Check whether a user may subscribe, produce and query the status.

A process gets its groups at login; a new membership has no effect on running processes. The checks
distinguish this case from a missing membership, since adding the user to the group again does not
help.
"""

import os
from collections.abc import Iterator, Sequence

from notif_relayctl.access import AS_ROOT, PRODUCE, RIGHTS, STATUS, SUBSCRIBE, Refusal, refusal
from notif_relayctl.accounts import Account, account, this_process
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayctl.doctor.host import Host, RelaySocket

MAX_PROCESSES = 3
"""Processes that a finding names; a service can have hundreds."""


def examine(host: Host, user: str | None, needs: Sequence[str]) -> Iterator[Finding]:
    """Check the permissions of a user.

    Args:
        host: the relay and its sockets.
        user: name or number; `None` for the user of this process.
        needs: the permissions that the user must have. If it is empty, one permission of any kind
            is sufficient.
    """
    running = this_process()
    try:
        checked = account(user or str(running.uid))
    except LookupError as error:
        if user is not None:
            yield Finding(f"user {user}", FAILED, str(error), "create the user or name another")
            return
        checked = running
    sockets = {SUBSCRIBE: host.public, PRODUCE: host.ingest, STATUS: host.control}
    findings = [
        _examine(checked, running, right, sockets[right])
        for right in RIGHTS
        if right in needs or not needs
    ]
    sufficient = not needs and any(each.result == OK for each in findings)
    for each in findings:
        yield each._replace(result=FAILED) if each.result == WARNING and not sufficient else each
    if checked.uid != 0:
        for right in (SUBSCRIBE, PRODUCE):
            yield from _outdated(checked, right, sockets[right])


def _examine(checked: Account, running: Account, right: str, socket: RelaySocket) -> Finding:
    """Check one permission. A missing one is a warning; the caller knows whether it is needed."""
    check = f"user {checked.name} {right}"
    is_running = checked.uid == running.uid
    try:
        now = refusal(socket.path, running if is_running else checked)
        after_login = refusal(socket.path, checked)
    except FileNotFoundError:
        return Finding(check, SKIPPED, f"the socket {socket.path} does not exist")
    except OSError as error:
        return Finding(check, SKIPPED, f"cannot examine {socket.path}: {error.strerror}", AS_ROOT)
    if now is None:
        return Finding(check, OK, f"{checked.name} may connect to {socket.path}")
    if after_login is None:
        return Finding(
            check,
            WARNING,
            f"{now.sentence(checked.name)}; the user joined the group after this login",
            "log in again",
        )
    return Finding(check, WARNING, now.sentence(checked.name), _advice(now, checked))


def _advice(refused: Refusal, checked: Account) -> str:
    if remedy := refused.remedy(checked.name):
        return f"{remedy}, then log in again or restart the service"
    if refused.is_directory:
        return f"chmod o+x {refused.path}"
    return f"chgrp {refused.path} to a group, chmod g+rw it, and add {checked.name} to the group"


def _outdated(checked: Account, right: str, socket: RelaySocket) -> Iterator[Finding]:
    """Report processes that lack a permission which a new process of the same user has."""
    try:
        if refusal(socket.path, checked) is not None:
            return
        outdated = [
            f"{pid} ({process.name})"
            for pid, process in _processes(checked.uid)
            if refusal(socket.path, process) is not None
        ]
    except OSError:
        return  # `_examine` has reported it.
    if outdated:
        more = len(outdated) - MAX_PROCESSES
        named = ", ".join(outdated[:MAX_PROCESSES]) + (f" and {more} more" if more > 0 else "")
        yield Finding(
            f"processes {checked.name} {right}",
            WARNING,
            f"{checked.name} may {right}, but these processes may not, because they were started "
            f"before the user joined the group: {named}",
            "restart the services of these processes",
        )


def _processes(uid: int) -> Iterator[tuple[int, Account]]:
    """Yield the processes of a user that proc(5) shows, except this one."""
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/status", errors="replace") as lines:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
        except OSError:
            continue  # The process has ended.
        # The last of the four IDs is the one for file access.
        if int(status["Uid"].split()[-1]) == uid:
            groups = [*status["Groups"].split(), status["Gid"].split()[-1]]
            yield int(entry), Account(status["Name"], uid, frozenset(map(int, groups)))
