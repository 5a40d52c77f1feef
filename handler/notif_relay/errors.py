# SPDX-License-Identifier: Apache-2.0
"""What the library raises, so that one ``except RelayError`` catches it all.

Little is raised: a service must not fail because its notifications cannot be relayed. An
argument that cannot be right is a ``ValueError`` or ``TypeError`` as everywhere in Python.
"""


class RelayError(Exception):
    """The base of every exception that is the library's own."""


class RecordTooLarge(RelayError):  # noqa: N818 (it reads well without "Error")
    """A record is over the limit; nothing of it was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"a record of {size} bytes was dropped: max_record_size allows {limit} bytes"
        )
        self.size = size
        self.limit = limit


class UnreadableRecord(RelayError, ValueError):  # noqa: N818
    """A record that Python cannot decode: nested too deep, or cut off when a relay was killed."""

    def __init__(self, size: int, reason: object) -> None:
        super().__init__(f"a record of {size} bytes cannot be decoded: {reason}")
        self.size = size


class BadFilter(RelayError, ValueError):  # noqa: N818
    """A filter that the relay cannot use; the message says what is wrong with it."""


class RelayUnavailable(RelayError):  # noqa: N818
    """There is no relay, or it lets nobody in, or it has ended the connection."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"no relay at {path}: {reason}")
        self.path = path
        self.reason = reason


class PermissionDenied(RelayError):  # noqa: N818
    """The process may not connect to the public socket.

    A user becomes a member of a group when logging in: who was added just now logs in again.
    """

    def __init__(self, path: str, group: str, user: str) -> None:
        super().__init__(
            f"{user} may not connect to {path}: it is for the group {group};"
            f" as root: usermod -aG {group} {user}, then log in again"
        )
        self.path = path
        self.group = group
        self.user = user
