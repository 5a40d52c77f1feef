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
