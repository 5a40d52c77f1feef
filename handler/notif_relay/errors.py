# SPDX-License-Identifier: Apache-2.0
"""The exceptions of the library; all of them derive from ``RelayError``.

A service must not fail because its notifications cannot be relayed, so sending raises few of
them. Invalid arguments raise ``ValueError`` or ``TypeError``, as usual in Python.
"""

from __future__ import annotations

from collections.abc import Callable


class RelayError(Exception):
    """Base class of the library's exceptions.

    They can be pickled: a pool of multiprocessing would otherwise wait for ever for the result of a
    worker that raises one of them.
    """

    def __reduce__(
        self,
    ) -> tuple[Callable[..., RelayError], tuple[object, ...], dict[str, object]]:
        """Pickle message and attributes; the arguments of a derived class are others."""
        return _restored, (type(self), *self.args), self.__dict__


def _restored(kind: type[RelayError], *arguments: object) -> RelayError:
    return kind.__new__(kind, *arguments)


class RecordTooLarge(RelayError):  # noqa: N818 (public name without the suffix "Error")
    """A record exceeds ``max_record_size``. The sender dropped it and sent no part of it.

    Attributes:
        size: size of the record in bytes, including its newline.
        limit: the maximum size in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a record of {size} bytes was dropped: max_record_size is {limit} bytes")
        self.size = size
        self.limit = limit


class InvalidRecord(RelayError, ValueError):  # noqa: N818
    """The relay would reject a record. The record was dropped before it was sent.

    Attributes:
        reason: what is wrong with the record.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"a record that the relay would reject was dropped: {reason}")
        self.reason = reason


class UnreadableRecord(RelayError, ValueError):  # noqa: N818
    """Python cannot decode a record.

    The record is nested too deeply for Python, or it was truncated when a relay was killed.

    Attributes:
        size: size of the record in bytes.
    """

    def __init__(self, size: int, reason: object) -> None:
        super().__init__(f"cannot decode a record of {size} bytes: {reason}")
        self.size = size


class BadFilter(RelayError, ValueError):  # noqa: N818
    """A filter, or what is requested of a group, is malformed or exceeds a fixed limit.

    The message states the problem.
    """


class RelayUnavailable(RelayError):  # noqa: N818
    """No relay is running, the relay refused the connection, or the relay closed it.

    Attributes:
        path: path of the socket.
        reason: why the relay is not available.
        running: False if no process listens on the socket; otherwise True.
    """

    def __init__(self, path: str, reason: str, *, running: bool = True) -> None:
        super().__init__(f"no connection to the relay at {path}: {reason}")
        self.path = path
        self.reason = reason
        self.running = running


class SubscriptionRefused(RelayUnavailable):
    """The relay is running and refused the subscriber; the message contains the relay's sentence.

    Attributes:
        reason: the sentence of the relay.
        is_permanent: True if the relay's configuration does not admit the user; False if a limit
            is reached that may permit more later, for example ``max_subscribers``,
            ``max_groups_per_user`` or ``max_hold``.
    """

    def __init__(self, path: str, reason: str, *, is_permanent: bool) -> None:
        super().__init__(path, reason)
        self.is_permanent = is_permanent


class WrongProcess(RelayError, RuntimeError):  # noqa: N818
    """A child process used the subscriber of its parent.

    Both processes would read from one connection, and each would get parts of the stream. A child
    that needs notifications has to subscribe itself.
    """

    def __init__(self, path: str, owner: int, process: int) -> None:
        super().__init__(
            f"process {process} cannot read from the connection of process {owner} to {path};"
            " subscribe after the fork"
        )


class PermissionDenied(RelayError):  # noqa: N818
    """The process is not allowed to connect to the socket.

    A process gets its groups at login. A user who was added to the group has to log in again.

    Attributes:
        path: path of the socket.
        group: name of the group that has access, or its number if it has no name.
        user: name of the effective user of the process, or its number if it has no name.
    """

    def __init__(self, path: str, group: str, user: str) -> None:
        super().__init__(
            f"user {user} may not connect to {path}: access requires membership in group {group};"
            f" run 'usermod -aG {group} {user}' as root, then log in again"
        )
        self.path = path
        self.group = group
        self.user = user
