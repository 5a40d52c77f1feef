# SPDX-License-Identifier: Apache-2.0
"""Cuts the byte stream of one producer into whole lines.

A stream socket keeps no boundaries: a record may come in pieces, a thousand may come at once.
What leaves here is a run of whole lines, as long as it may be, because everything after this is
done once for a run and not once for a record. Whether a line is a record is the validator's
question; here only its end is looked for.

What is kept between two calls is one unfinished line of at most `limit` bytes. A longer one is
given up at once and skipped to its end, so that a producer without newlines costs nobody memory.
"""

from collections.abc import Callable, Iterator
from io import BytesIO

split: Callable[[bytes], Iterator[bytes]] = BytesIO
"""The lines of a run, each with its newline and made when it is asked for.

Newlines are found by memchr(3) this way; `bytes.split` takes four times as long. Whoever needs one
line at a time has them all in the same place in memory, which the processor still knows.
"""


class Framer:
    """One producer's unfinished line.

    Args:
        limit: bytes of the longest line, its newline included.
    """

    __slots__ = ("_limit", "_rest", "_skipping", "given_up")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._skipping = False
        self.given_up = 0
        """Lines that were too long, since somebody has asked and set it to zero."""

    def feed(self, data: bytes) -> bytes:
        """The whole lines that `data` completes, in one piece; empty when it completes none.

        It is `data` itself where nothing is left of it, and nothing was left before.
        """
        if data.endswith(b"\n") and not self.within:
            return data
        end = data.rfind(b"\n") + 1
        if not end:
            self._keep(data)
            return b""
        start = 0
        if self._skipping:
            start = data.index(b"\n") + 1
            self._skipping = False
        lines = b"".join((self._rest, memoryview(data)[start:end]))
        self._rest.clear()
        self._keep(data[end:])
        return lines

    def save(self) -> tuple[bytes, bool]:
        """The unfinished line, and whether it was given up."""
        return bytes(self._rest), self._skipping

    def restore(self, rest: bytes, skipping: bool) -> None:
        """Go on where another splitter of the same stream has stopped."""
        self._rest[:] = rest
        self._skipping = skipping

    @property
    def within(self) -> bool:
        """Whether what comes next is the rest of a line."""
        return bool(self._rest) or self._skipping

    @property
    def skipping(self) -> bool:
        """Whether what comes next is the rest of a line that was given up."""
        return self._skipping

    @property
    def held(self) -> int:
        """Bytes of the unfinished line."""
        return len(self._rest)

    def skip(self) -> None:
        """Give the unfinished line up, and skip it to its end."""
        self._rest.clear()
        self._skipping = True

    @property
    def torn(self) -> bool:
        """Whether an unfinished line is held: when the stream has ended, a torn record."""
        return bool(self._rest)

    def _keep(self, data: bytes) -> None:
        if self._skipping:
            return
        self._rest += data
        # The newline is still to come and belongs to the record.
        if len(self._rest) >= self._limit:
            self.skip()
            self.given_up += 1
