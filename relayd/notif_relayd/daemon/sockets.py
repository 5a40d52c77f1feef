# SPDX-License-Identifier: Apache-2.0
"""The listening sockets and other descriptors that the daemon starts with."""

import contextlib
from dataclasses import dataclass

from notif_relayd.access.accounts import socket_owner
from notif_relayd.daemon.options import Settings
from notif_relayd.handover.inherit import Inherited, inherit
from notif_relayd.net.listeners import Listener, adopt, bind, passed
from notif_relayd.relay import Sockets


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """The listening sockets, and what the previous process left."""

    public: Listener
    ingest: Listener
    control: Listener
    inherited: Inherited

    @property
    def held_by_systemd(self) -> bool:
        """Whether systemd holds the public and the private socket."""
        return not (self.public.bound_here or self.ingest.bound_here)

    @property
    def listeners(self) -> tuple[Listener, Listener, Listener]:
        """All listeners."""
        return self.public, self.ingest, self.control

    @property
    def sockets(self) -> Sockets:
        """The sockets of the listeners."""
        return Sockets(self.public.socket, self.ingest.socket, self.control.socket)


def open_sockets(stack: contextlib.ExitStack, settings: Settings) -> OpenSockets:
    """Take over the sockets that systemd passes, and bind the others.

    Args:
        stack: closes the sockets.
        settings: names the sockets.

    Raises:
        StartError: a socket cannot be used or bound.
    """
    listeners: dict[str, Listener] = {}
    others = []
    plans = {plan.name: plan for plan in (settings.public, settings.ingest)}
    for name, fd in passed():
        if name in plans:
            plan = plans.pop(name)
            listeners[name] = adopt(fd, plan, socket_owner(plan))
            stack.callback(listeners[name].close)
        else:
            others.append((name, fd))
    for plan in (*plans.values(), settings.control):
        listeners[plan.name] = bind(plan, socket_owner(plan))
        stack.callback(listeners[plan.name].close)
    return OpenSockets(**listeners, inherited=inherit(others))
