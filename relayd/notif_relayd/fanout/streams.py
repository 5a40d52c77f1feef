# SPDX-License-Identifier: Apache-2.0
"""The streams, and the selection of their records.

Each view that a subscriber has is a stream, and so is each set of views that the members of a group
have. A stream begins with its first subscription and ends when its last member leaves.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.subscriber import Stream
from notif_relayd.records.filters import UNFILTERED, View
from notif_relayd.records.selector import Selector
from notif_relayd.records.validator import RoutingKey


class Streams:
    """All streams.

    Args:
        store: where their rings are charged.
        thread_time: returns the processor time of the thread in seconds.
    """

    def __init__(self, store: Store, thread_time: Callable[[], float] = time.thread_time) -> None:
        self.unfiltered: Stream | None = None
        """The stream of all records, while it has members."""
        self.store = store
        """Where the rings of the streams are charged."""
        self._by_views: dict[frozenset[View], Stream] = {}
        self.selector: Selector[Stream] = Selector(thread_time)
        """Tells which views contain a record."""
        self._filtered = 0
        """Number of streams other than the unfiltered one."""

    def __iter__(self) -> Iterator[Stream]:
        """All streams, in the order in which they began."""
        return iter(self._by_views.values())

    @property
    def seconds(self) -> float:
        """Processor time, in seconds, for values that the selector has not remembered, and for
        records whose payload took longer than usual."""
        return self.selector.seconds

    def select(
        self, routing_keys: Sequence[RoutingKey], batch: bytes
    ) -> Iterator[tuple[Stream, list[int]]]:
        """Yield the filtered streams that any of these records is in, and its indexes.

        A stream that ends during the iteration, because its last member leaves, is omitted.

        Args:
            routing_keys: those of the records.
            batch: the records.
        """
        if self._filtered:
            for stream, places in self.selector.select(routing_keys, batch).items():
                if not stream.ended:
                    yield stream, places

    def of(self, *views: View) -> Stream:
        """Return the stream of the records that any of these views contains.

        A new stream has no members yet.
        """
        wanted = frozenset((UNFILTERED,) if UNFILTERED in views else views)
        stream = self._by_views.get(wanted)
        if stream is None:
            stream = self._by_views[wanted] = Stream(wanted, self.store)
            if stream.is_unfiltered:
                self.unfiltered = stream
            else:
                for view in wanted:
                    self.selector.add(view, stream)
                self._filtered += 1
        return stream

    def leave(self, stream: Stream) -> None:
        """Remove one member of a stream; end the stream if it was the last."""
        stream.members -= 1
        if not stream.members:
            self._end(stream)

    def end_if_unused(self, stream: Stream) -> None:
        """End a stream that may have no members."""
        if not stream.members:
            self._end(stream)

    def end_unused(self) -> None:
        """End the streams that have no members."""
        for stream in list(self):
            self.end_if_unused(stream)

    def _end(self, stream: Stream) -> None:
        if self._by_views.get(stream.views) is not stream:
            return  # the stream of one member of a group
        del self._by_views[stream.views]
        stream.ended = True
        if stream is self.unfiltered:
            self.unfiltered = None
        else:
            for view in stream.views:
                self.selector.remove(view, stream)
            self._filtered -= 1
