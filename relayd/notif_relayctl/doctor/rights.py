# SPDX-License-Identifier: Apache-2.0
"""Check whether a user may subscribe, produce and query the status.

The permissions of the socket, its allow list and the access rules must admit the user.

A process gets its groups at login; a new membership has no effect on running processes. The checks
distinguish this case from a missing membership, since adding the user to the group again does not
help.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from notif_relayctl.access import AS_ROOT, PRODUCE, RIGHTS, STATUS, SUBSCRIBE, Refusal, refusal
from notif_relayctl.accounts import Account, account, group_name, this_process, user_name
from notif_relayctl.doctor import library
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayctl.doctor.host import ANOTHER_DIRECTORY, Host, RelaySocket
from notif_relayctl.doctor.processes import account_of, is_of_session, of_service
from notif_relayctl.doctor.service import Use

MAX_PROCESSES = 3
"""Processes that a finding names, and that are examined; a service can have hundreds."""


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
        _examine(host, checked, running, right, sockets[right])
        for right in RIGHTS
        if right in needs or not needs
    ]
    sufficient = not needs and any(each.result == OK for each in findings)
    for each in findings:
        yield each._replace(result=FAILED) if each.result == WARNING and not sufficient else each
    if checked.uid != 0:
        for right in (SUBSCRIBE, PRODUCE):
            yield from _outdated(host, checked, right, sockets[right])


def examine_service(
    host: Host, given: Sequence[str], use: Use, users: Sequence[str | None]
) -> Iterator[Finding]:
    """Check whether the user of a service may use the sockets that its configuration names.

    Args:
        host: the relay and its sockets.
        given: the service's configuration files and directories.
        use: what the service needs.
        users: the users that are checked anyway, one of which should be that of a service without
            running processes.
    """
    check = f"service {' '.join(given)} user"
    public = {os.path.realpath(each.path): each for each in host.named("public")}
    wanted = {os.path.realpath(path) for path in use.reads}
    needed = [(SUBSCRIBE, socket) for path, socket in public.items() if path in wanted]
    if use.sends:
        needed.append((PRODUCE, host.ingest))
    running = _running(given)
    if not running:
        named = [each for each in users if each is not None]
        if use.reads and not named:
            finding = "no process of the service is known, so its user is unknown"
            yield Finding(check, SKIPPED, finding, "name its user with --user")
        elif use.reads:
            yield from _named(host, check, needed, named)
        return
    for name, process in running.items():
        for right, socket in needed:
            found = _examine(host, _login(process), process, right, socket)
            yield _for_service(found, check, name)


def examine_account(
    host: Host, check: str, user: Account, right: str, socket: RelaySocket
) -> Finding:
    """Check whether the user of a service has a permission that the service needs."""
    return _for_service(_examine(host, user, this_process(), right, socket), check)


def _named(
    host: Host,
    check: str,
    needed: Sequence[tuple[str, RelaySocket]],
    users: Sequence[str],
) -> Iterator[Finding]:
    """Check the permissions of the users, one of which is that of a service."""
    accounts = []
    for user in users:
        with contextlib.suppress(LookupError):  # `examine` has reported it.
            accounts.append(account(user))
    for right, socket in needed:
        found = [_examine(host, each, this_process(), right, socket) for each in accounts]
        admitted = [each for each in found if each.result == OK]
        for each in admitted[:1] or found:
            yield _for_service(each, check)


def _for_service(found: Finding, check: str, process: str = "") -> Finding:
    """Return a finding about a permission that a service needs."""
    advice = "restart the service" if found.advice == "log in again" else found.advice
    result = FAILED if found.result == WARNING else found.result
    # Any user can start a process that looks like one of the service.
    of_process = f"; this is the user of process {process}" if process else ""
    return Finding(check, result, f"{found.finding}{of_process}", advice)


def _running(given: Sequence[str]) -> dict[str, Account]:
    """Return the different users of the processes of a service, each by one of its processes.

    Processes of a login session are left out: the editor of the file, or a program that a user has
    started so that the advice gives a permission to this user.
    """
    found: dict[tuple[int, frozenset[int]], tuple[str, Account]] = {}
    for pid, words in of_service(given):
        with contextlib.suppress(OSError):  # The process has ended.
            if not library.runs_python(pid, words) or is_of_session(pid):
                continue
            process = account_of(pid)
            named = f"{pid} ({process.name})", replace(process, name=user_name(process.uid))
            found.setdefault((process.uid, process.groups), named)
            if len(found) == MAX_PROCESSES:
                break
    return dict(found.values())


def _login(process: Account) -> Account:
    """Return the user of a process with the groups of a new process."""
    try:
        return account(str(process.uid))
    except LookupError:
        return process


def _examine(
    host: Host, checked: Account, running: Account, right: str, socket: RelaySocket
) -> Finding:
    """Check one permission. A missing one is a warning; the caller knows whether it is needed."""
    check = f"user {checked.name} {right}"
    process = running if checked.uid == running.uid else checked
    try:
        now = refusal(socket.path, process)
        after_login = refusal(socket.path, checked)
    except FileNotFoundError:
        return Finding(check, SKIPPED, f"the socket {socket.path} does not exist")
    except OSError as error:
        return Finding(check, SKIPPED, f"cannot examine {socket.path}: {error.strerror}", AS_ROOT)
    if not host.is_relays(socket):
        return Finding(check, SKIPPED, f"no relay is known to listen on {socket.path}", host.start)
    if now is None:
        return _admitted(host, check, checked, process, socket)
    if after_login is None:
        return Finding(
            check,
            WARNING,
            f"{now.sentence(checked.name)}; the user joined the group after this login",
            "log in again",
        )
    return Finding(check, WARNING, now.sentence(checked.name), _advice(host, now, checked))


def _admitted(
    host: Host, check: str, checked: Account, process: Account, socket: RelaySocket
) -> Finding:
    """Check the allow list and the access rules for a user who has the permission of the file."""
    may = f"{checked.name} may connect to {socket.path}"
    if socket.allowed is not None and process not in socket.allowed:
        if checked in socket.allowed:
            finding = f"{may}, but the relay refuses it: the user joined a group of "
            finding += f"{socket.name}_allow_groups after this login"
            return Finding(check, WARNING, finding, "log in again")
        return Finding(
            check,
            WARNING,
            f"{may}, but the relay refuses it: neither {socket.name}_allow_users contains the user "
            f"nor {socket.name}_allow_groups one of its groups",
            f"add it to {socket.name}_allow_users in relayd.conf, then reload the relay",
        )
    readable = host.settings.policy.allowed(process) if socket is host.public else None
    if readable is None:
        return Finding(check, OK, may)
    if readable:
        return Finding(check, OK, f"{may}, and reads what the access rules of its groups allow")
    groups = sorted({group_name(rule.group) for rule in host.settings.policy.rules})
    return Finding(
        check,
        WARNING,
        f"{may}, but receives nothing: no access rule is for one of its groups",
        f"add an access rule for one of its groups, or {checked.name} to a group that has a rule: "
        f"{', '.join(groups)}",
    )


def _advice(host: Host, refused: Refusal, checked: Account) -> str:
    if refused.is_directory and not host.owns(refused.path):
        return AS_ROOT if host.daemon is None else ANOTHER_DIRECTORY
    if remedy := refused.remedy(checked.name):
        return f"{remedy}, then log in again or restart the service"
    if refused.is_directory:
        return f"chmod o+x {refused.path}"
    return f"chgrp {refused.path} to a group, chmod g+rw it, and add {checked.name} to the group"


def _outdated(host: Host, checked: Account, right: str, socket: RelaySocket) -> Iterator[Finding]:
    """Report processes that lack a permission which a new process of the same user has."""
    allowed = socket.allowed
    try:
        if not host.is_relays(socket) or refusal(socket.path, checked) is not None:
            return
        if allowed is not None and checked not in allowed:
            return
        outdated = [
            f"{pid} ({process.name})"
            for pid, process in _processes(checked.uid)
            if refusal(socket.path, process) is not None
            or (allowed is not None and process not in allowed)
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
            process = account_of(entry)
        except OSError:
            continue  # The process has ended.
        if process.uid == uid:
            yield int(entry), process
