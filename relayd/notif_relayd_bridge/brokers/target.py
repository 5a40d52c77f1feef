# SPDX-License-Identifier: Apache-2.0
"""The interface between the pipeline and the client of a broker.

A target sends and confirms messages in one order, that of the calls of ``send``. It neither stores
nor repeats a message: after a failure, the pipeline sends every unconfirmed message again, in the
same order. A message may therefore arrive twice, and the messages of one producer stay in order.

A module of a target provides two functions, which have the types `Options` and `Create` and the
names ``options`` and ``create``. It imports its client in ``create``; see ``schemes``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from notif_relay import Notification

if TYPE_CHECKING:
    from oslo_config import cfg


class Events(Protocol):
    """What a target reports. It may call these methods from any thread, one at a time.

    They do not wait, except for a call of ``send`` to return. So the target must not hold a lock
    that its method ``send`` takes.
    """

    def connected(self) -> None:
        """Report that messages can be sent, and none is unconfirmed."""

    def confirmed(self, count: int) -> None:
        """Report that the oldest unconfirmed messages are safe at the broker.

        Args:
            count: number of messages, at least 1, in the order of ``send``.
        """

    def refused(self, reason: str) -> None:
        """Report that the broker will never accept the oldest unconfirmed message.

        The message counts as answered.

        Args:
            reason: why, in a few words; without credentials.
        """

    def failed(self, reason: str) -> None:
        """Report that the connection is lost, or that an attempt to connect failed.

        Every unconfirmed message is sent again after the next ``connected``.

        Args:
            reason: why, in a few words; without credentials.
        """


class Target(Protocol):
    """The client of a broker, with a thread of its own.

    An idle target does not wake up, except for the heartbeats of its protocol.
    """

    max_unconfirmed: int
    """Maximum number of messages that are sent without a confirmation."""

    def start(self, events: Events) -> None:
        """Connect in the background, and again after each failure.

        The pause between two attempts is random; its limit grows from 0.1 to 30 seconds.

        Args:
            events: is told of the results; ``start`` itself calls none of its methods.
        """

    def send(self, notification: Notification) -> None:
        """Send a message without waiting for the network.

        A call between the failure of the connection and the report ``failed`` has no effect. One
        thread at a time calls this method, possibly within a method of ``Events``.

        Args:
            notification: the message. The broker gets ``raw``, or an equivalent of it.
        """

    def close(self) -> None:
        """Disconnect and end the thread within a bounded time; a further call does nothing.

        No method of ``Events`` is called after this method has returned. It must not be called
        within a method of ``Events``.
        """


Options = Callable[[], "list[tuple[str, list[cfg.Opt]]]"]
"""Returns the sections of the configuration file that belong to the target, with their options."""

Create = Callable[[str, "cfg.ConfigOpts"], Target]
"""Returns a target for a URL and the configuration, in which the target's options are registered.

It connects to nothing.

Raises:
    StartError: the URL or an option is invalid; the message contains no credentials.
    ModuleNotFoundError: the client is not installed.
"""
