# SPDX-License-Identifier: Apache-2.0
"""Plain, validated values that the daemon and relayctl share."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Access:
    """Permissions of a socket file; `None` leaves a permission unchanged."""

    mode: int | None = None
    user: str | None = None
    group: str | None = None
    usual_group: str | None = None
    """Group of a socket that the daemon binds itself, if no group is configured and this group
    exists."""


@dataclass(frozen=True, slots=True)
class SocketPlan:
    """Configuration of one of the relay's listening sockets."""

    name: str
    """FileDescriptorName= of the systemd unit, and the prefix of the socket's options."""
    path: str
    access: Access
