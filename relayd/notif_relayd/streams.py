# SPDX-License-Identifier: Apache-2.0
"""Which streams there are, and which records are in which of them.

There is one for each view that somebody has, and it goes when the last of them leaves it. Nothing
here knows of sockets; where somebody is in a stream is the business of its ring.
"""

from collections.abc import Iterator, Sequence

from notif_relayd.filters import EVERYTHING, Selector, View
from notif_relayd.ring import Store
from notif_relayd.subscriber import Stream
from notif_relayd.validator import Kind


class Streams:
    """All of them.

    Args:
        store: where their rings keep records.
    """

    def __init__(self, store: Store) -> None:
        self.everything: Stream | None = None
        """The one without a filter, as long as somebody reads it."""
        self._store = store
        self._by_view: dict[View, Stream] = {}
        self._selector = Selector()

    def __iter__(self) -> Iterator[Stream]:
        """All, in the order in which they began."""
        return iter(self._by_view.values())

    def select(self, kinds: Sequence[Kind]) -> Iterator[tuple[Stream, list[int]]]:
        """Those that hold something back, but not all of these: with the places of the others.

        One that goes meanwhile, with the last who reads it, is left out.
        """
        if not self._selector.views:
            return
        for view, places in self._selector.select(kinds).items():
            if view in self._by_view:
                yield self._by_view[view], places

    def of(self, view: View) -> Stream:
        """The one of this view; a new one has no members yet."""
        if view not in self._by_view:
            self._by_view[view] = Stream(view, self._store)
            self._changed()
        return self._by_view[view]

    def leave(self, stream: Stream) -> None:
        """One member less."""
        stream.members -= 1
        if not stream.members:
            self._end(stream)

    def tidy(self) -> None:
        """Let those go that have no members."""
        for stream in list(self):
            if not stream.members:
                self._end(stream)

    def _end(self, stream: Stream) -> None:
        del self._by_view[stream.view]
        self._changed()

    def _changed(self) -> None:
        """Tell those who look, now that there are others."""
        self.everything = self._by_view.get(EVERYTHING)
        self._selector.use(self._by_view)
