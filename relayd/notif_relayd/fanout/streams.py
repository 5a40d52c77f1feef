# SPDX-License-Identifier: Apache-2.0
"""The streams, one for each view that a subscriber has, and the selection of their records.

A stream begins with its first subscription and ends when its last member leaves.
"""

from collections.abc import Iterator, Sequence

from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.subscriber import Stream
from notif_relayd.records.filters import View
from notif_relayd.records.selector import Selector
from notif_relayd.records.validator import RoutingKey


class Streams:
    """All streams.

    Args:
        store: where their rings are charged.
    """

    def __init__(self, store: Store) -> None:
        self.unfiltered: Stream | None = None
        """The stream of all records, while it has members."""
        self._store = store
        self._by_view: dict[View, Stream] = {}
        self._selector: Selector[Stream] = Selector()
        self._filtered = 0
        """Number of streams other than the unfiltered one."""

    def __iter__(self) -> Iterator[Stream]:
        """All streams, in the order in which they began."""
        return iter(self._by_view.values())

    @property
    def seconds(self) -> float:
        """Processor time, in seconds, that `select` took for values that it has not remembered."""
        return self._selector.seconds if self._filtered else 0.0

    def select(self, routing_keys: Sequence[RoutingKey]) -> Iterator[tuple[Stream, list[int]]]:
        """Yield the filtered streams that any of these records is in, and its indexes.

        A stream that ends during the iteration, because its last member leaves, is omitted.
        """
        if self._filtered:
            for stream, places in self._selector.select(routing_keys).items():
                if not stream.ended:
                    yield stream, places

    def of(self, view: View) -> Stream:
        """Return the stream of a view; a new stream has no members yet."""
        stream = self._by_view.get(view)
        if stream is None:
            stream = self._by_view[view] = Stream(view, self._store)
            if view.is_unfiltered:
                self.unfiltered = stream
            else:
                self._selector.add(view, stream)
                self._filtered += 1
        return stream

    def leave(self, stream: Stream) -> None:
        """Remove one member of a stream; end the stream if it was the last."""
        stream.members -= 1
        if not stream.members:
            self._end(stream)

    def end_unused(self) -> None:
        """End the streams that have no members."""
        for stream in list(self):
            if not stream.members:
                self._end(stream)

    def _end(self, stream: Stream) -> None:
        del self._by_view[stream.view]
        stream.ended = True
        if stream is self.unfiltered:
            self.unfiltered = None
        else:
            self._selector.remove(stream.view)
            self._filtered -= 1
