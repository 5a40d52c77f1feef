# SPDX-License-Identifier: Apache-2.0
"""Whether a user may subscribe, produce and ask for the status, and what to join for it.

A process has the groups of its login, so that a new membership does nothing for what runs
already. That is told apart from a membership that is missing: to join once more does not help.
"""

import os
from collections.abc import Iterator, Sequence

from notif_relayctl.access import PRODUCE, RIGHTS, STATUS, SUBSCRIBE, Refusal, refusal
from notif_relayctl.accounts import Account, account, this_process
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayctl.doctor.host import Host, RelaySocket

SHOWN = 3
"""Processes to name; a service may have hundreds."""


def examine(host: Host, user: str | None, needs: Sequence[str]) -> Iterator[Finding]:
    """Say what a user may.

    Args:
        user: by name or number; None for who runs this.
        needs: the rights to look at, without which the user cannot do what it is for. When they
            are not given, one of all is enough.
    """
    running = this_process()
    try:
        who = account(user or str(running.uid))
    except LookupError as error:
        if user is not None:
            yield Finding(f"user {user}", FAILED, str(error), "create it, or name another")
            return
        who = running
    sockets = {SUBSCRIBE: host.public, PRODUCE: host.ingest, STATUS: host.control}
    findings = [
        _examine(who, running, right, sockets[right])
        for right in RIGHTS
        if right in needs or not needs
    ]
    enough = not needs and any(each.result == OK for each in findings)
    for each in findings:
        yield each._replace(result=FAILED) if each.result == WARNING and not enough else each
    if who.uid != 0:
        for right in (SUBSCRIBE, PRODUCE):
            yield from _outdated(who, right, sockets[right])


def _examine(who: Account, running: Account, right: str, socket: RelaySocket) -> Finding:
    """A refusal is a warning here: whether the user can do without is for others to say."""
    check = f"user {who.name} {right}"
    is_running = who.uid == running.uid
    try:
        now = refusal(socket.path, running if is_running else who)
        after_login = refusal(socket.path, who)
    except FileNotFoundError:
        return Finding(check, SKIPPED, f"there is no socket {socket.path}")
    except OSError as error:
        return Finding(
            check, SKIPPED, f"{socket.path} cannot be looked at: {error.strerror}", "try it as root"
        )
    if now is None:
        return Finding(check, OK, f"{who.name} may connect to {socket.path}")
    if after_login is None:
        return Finding(
            check,
            WARNING,
            f"{now.sentence(who.name)}: a member by now, but not when this login began",
            "log in again",
        )
    return Finding(check, WARNING, now.sentence(who.name), _advice(now, who))


def _advice(refused: Refusal, who: Account) -> str:
    if remedy := refused.remedy(who.name):
        return f"{remedy}, and log in again or restart the service"
    if refused.is_directory:
        return f"chmod o+x {refused.path}"
    return f"chgrp {refused.path} to a group, chmod g+rw, and let {who.name} join it"


def _outdated(who: Account, right: str, socket: RelaySocket) -> Iterator[Finding]:
    """Processes that may not what a new one of this user might."""
    try:
        if refusal(socket.path, who) is not None:
            return
        outdated = [
            f"{pid} ({process.name})"
            for pid, process in _processes(who.uid)
            if refusal(socket.path, process) is not None
        ]
    except OSError:
        return  # `_examine` has said it.
    if outdated:
        more = f" and {len(outdated) - SHOWN} more" if len(outdated) > SHOWN else ""
        yield Finding(
            f"processes {who.name} {right}",
            WARNING,
            f"{who.name} may {right}, but not the processes {', '.join(outdated[:SHOWN])}{more}: "
            f"they have the groups of when they were started",
            "restart the services that they belong to",
        )


def _processes(uid: int) -> Iterator[tuple[int, Account]]:
    """Those of this user, but this one, as far as proc(5) shows them."""
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/status", errors="replace") as lines:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
        except OSError:
            continue  # It has ended.
        # The last of four is what counts for files.
        if int(status["Uid"].split()[-1]) == uid:
            groups = [*status["Groups"].split(), status["Gid"].split()[-1]]
            yield int(entry), Account(status["Name"], uid, frozenset(map(int, groups)))
