# SPDX-License-Identifier: Apache-2.0
"""The answer of a bridge on its status socket.

relayctl does not import the bridge; a test compares the fields with those that a bridge sends. The
types bound what another program could answer. The counters start at 0 with the process.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_COUNT = 2**63 - 1

MAX_SECONDS = 1e12
"""Maximum of a time or duration in seconds, more than any clock has."""

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
Word = Annotated[str, Meta(pattern=r"\A[a-z]{1,16}\Z")]
Name = Annotated[str, Meta(max_length=64)]


class SpoolStatus(msgspec.Struct):
    """The notifications on disk."""

    records: Count
    bytes: Count
    max_bytes: Annotated[int, Meta(ge=1, le=MAX_COUNT)]
    oldest_seconds: Seconds | None
    dropped: Count
    """Records that gap records have replaced."""
    failed: bool
    """Whether the spool cannot be read or written."""

    @property
    def fill(self) -> float:
        """The used part of the maximum size."""
        return self.bytes / self.max_bytes


class BridgeStatus(msgspec.Struct):
    """One bridge."""

    name: Name
    version: Name
    pid: Count
    direction: Word
    """`out` from the relay to the broker, or `in`."""
    broker: Word
    connected: bool
    """Whether the broker is connected."""
    since: Seconds
    """Start of the process, in seconds since 1970."""
    confirmed: Count
    """Messages that the receiving side has confirmed."""
    repeated: Count
    refused: Count
    skipped: Count
    spooled: Count
    unconfirmed: Count
    waiting: Count
    spool: SpoolStatus | None
    """None if the bridge has no spool."""

    @property
    def behind(self) -> int:
        """Number of notifications that the bridge has taken and that are not confirmed."""
        return self.unconfirmed + self.waiting + (self.spool.records if self.spool else 0)
