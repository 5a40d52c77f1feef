# SPDX-License-Identifier: Apache-2.0
"""The listening sockets and other descriptors that the daemon starts with."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from notif_relayd.access.accounts import socket_owner
from notif_relayd.daemon.options import DEFAULT_IDLE_TIMEOUT, Settings
from notif_relayd.errors import StartError
from notif_relayd.handover.inherit import Inherited, inherit
from notif_relayd.net.listeners import Listener, adopt, bind, check
from notif_relayd.net.passed import passed, refuse_listening
from notif_relayd.relay import Sockets
from notif_relayd.settings import Limits, SocketPlan
from notif_relayd.systemd.environment import booted


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """The listening sockets, and what the previous process left."""

    public: Listener
    ingest: Listener
    control: Listener
    inherited: Inherited
    more_public: Sequence[Listener] = ()
    """Further public sockets that systemd passed."""
    more_ingest: Sequence[Listener] = ()
    """Further private sockets that systemd passed."""

    @property
    def held_by_systemd(self) -> bool:
        """Whether systemd holds the public and the private socket."""
        return not (self.public.bound_here or self.ingest.bound_here)

    @property
    def listeners(self) -> list[Listener]:
        """All listeners."""
        return [self.public, self.ingest, self.control, *self.more_public, *self.more_ingest]

    @property
    def sockets(self) -> Sockets:
        """The sockets of the listeners."""
        return Sockets(
            self.public.socket,
            self.ingest.socket,
            self.control.socket,
            [each.socket for each in self.more_public],
            [each.socket for each in self.more_ingest],
        )


def open_sockets(stack: contextlib.ExitStack, settings: Settings) -> OpenSockets:
    """Take over the sockets that systemd passes, and bind the others.

    Args:
        stack: closes the sockets.
        settings: names the sockets.

    Raises:
        StartError: a socket cannot be used or bound.
    """
    plans = {plan.name: plan for plan in (settings.public, settings.ingest)}
    listeners: dict[str, list[Listener]] = {name: [] for name in plans}
    others = []
    for name, fd in passed():
        if name in plans:
            # A socket unit with several ListenStream= passes several sockets with the same name.
            listeners[name].append(adopt(fd, plans[name], socket_owner(plans[name])))
            stack.callback(listeners[name][-1].close)
        else:
            refuse_listening(name, fd)
            others.append((name, fd))

    def bound(plan: SocketPlan) -> Listener:
        listener = bind(plan, socket_owner(plan))
        stack.callback(listener.close)
        return listener

    public, *more_public = listeners["public"] or [bound(settings.public)]
    ingest, *more_ingest = listeners["ingest"] or [bound(settings.ingest)]
    control = bound(settings.control)
    return OpenSockets(public, ingest, control, inherit(others), more_public, more_ingest)


def check_sockets(settings: Settings) -> None:
    """Check that the sockets can be bound, without binding them.

    No descriptors are passed for a check. If systemd runs, it is assumed to hold the public and the
    private socket.

    Raises:
        StartError: a socket cannot be bound, or systemd does not run and an idle timeout is set.
    """
    held_by_systemd = booted()
    with_idle_timeout(settings.limits, held_by_systemd)
    for plan in (settings.control,) if held_by_systemd else settings.plans:
        check(plan)


def with_idle_timeout(limits: Limits, held_by_systemd: bool) -> Limits:
    """Return the limits with the default idle timeout, if systemd holds the sockets.

    Raises:
        StartError: an idle timeout is configured, but systemd does not hold the sockets.
    """
    if limits.idle_timeout and not held_by_systemd:
        raise StartError(
            "[relayd] idle_timeout: systemd does not hold the sockets and cannot start the daemon "
            "again: remove this option"
        )
    if limits.idle_timeout is None and held_by_systemd:
        return replace(limits, idle_timeout=DEFAULT_IDLE_TIMEOUT)
    return limits
