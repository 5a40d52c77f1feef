# SPDX-License-Identifier: Apache-2.0
"""Finds the filters whose payload patterns a record matches.

Nothing here takes time while no filter has a pattern. Otherwise, a record that passes the other
keys of a filter with a pattern is decoded, once for all filters, and its payload is walked once.
The paths of all filters form a tree, so that only keys of the payload that belong to a path are
decoded and followed, with any number of paths: see `payload_tree`. `path_alternatives` finds the
filters that a value passes.

A record may come from a hostile producer, and a pattern from a hostile subscriber. A record that
cannot be decoded, because it is nested too deeply, or that has more than `MAX_ELEMENTS` elements of
lists on the way, matches no pattern: an access rule must not let it pass.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from sys import getsizeof

from msgspec import UNSET, Struct

from notif_relay.payload_pattern import value_of
from notif_relayd.records.filters import Filter
from notif_relayd.records.path_alternatives import PathAlternatives
from notif_relayd.records.payload_tree import PayloadTree

MAX_ELEMENTS = 1024
"""Maximum number of elements of lists that are examined in one record.

1024 elements take 1 ms. If each is a new string, and one user has chosen the globs, they take up to
0.2 s, because `Filter.cost` allows 0.2 ms for a string; this time is charged to the producer.
"""

USUAL_RECORD_TIME = 30e-6
USUAL_BYTE_TIME = 50e-9
"""Processor time, in seconds, that a record and each of its bytes may take. With 16 paths, a
notification of 3 KiB takes a sixth of it. Long lists of short elements take more, and so do numbers
and escapes that msgspec refuses: the excess is charged to the user of the producer."""

MAX_RESULTS_SIZE = 2 * 1024 * 1024
"""Maximum size, in bytes, of the remembered results and their records or digests.

A record is looked up again for each group that hands it out. That takes a tenth of the time of
decoding it.
"""

MAX_KEY_SIZE = 4096
"""Size, in bytes, of a record from which on its digest is remembered in its place, so that there is
room for all records of a ring: many groups may hand out large records that take long to decode."""

RESULT_SIZE = 200
"""Upper bound of the bytes of a remembered result, without the record and the bits."""

SLOW_RECORD_TIME = 0.001
"""Processor time, in seconds, from which on the user who adds a pattern pays for decoding a record
again: that of a usual record of several 100 KiB."""

MAX_VALUES_SIZE = 4 * 1024 * 1024
"""Maximum size, in bytes, of the values of all paths that are remembered. When it is exceeded, all
of them are forgotten; that takes 0.5 ms for 10,000 values."""

VALUE_SIZE = 120
"""Upper bound of the bytes of a remembered value, without the value and its bits: the entry in a
dictionary that has just grown."""

MAX_SHAPES = 512
"""Maximum number of remembered sets of paths that a payload contains. Notifications of one type
have a few of them."""


class PayloadIndex:
    """The patterns of all filters. Sets of filters are integers with a bit for each.

    Args:
        thread_time: returns the processor time of the thread in seconds.
    """

    def __init__(self, thread_time: Callable[[], float]) -> None:
        self.bits = 0
        """The filters with a pattern."""
        self.seconds = 0.0
        """Processor time, in seconds, for records that were decoded."""
        self.expensive_seconds = 0.0
        """The part of it for values and sets of paths that were not remembered, and for records
        that took longer than usual."""
        self.forgotten_seconds = 0.0
        """Processor time, in seconds, for slow records whose results were forgotten because of
        a filter. It is taken again if groups have yet to hand them out."""
        self._thread_time = thread_time
        self._tree = PayloadTree()
        self._paths: dict[str, PathAlternatives] = {}
        self._shapes: dict[frozenset[PathAlternatives], int] = {}
        self._results: dict[bytes, int] = {}
        self._results_size = 0
        self._slow_seconds = 0.0
        """Processor time for the slow records among them."""
        self._values_size = 0
        self._freed = 0
        """Bits of removed filters, which may be set or not in what is remembered."""

    def add(self, wanted: Filter, bit: int) -> None:
        """Add a filter; one without a pattern passes all records."""
        if wanted.payload is None:
            if bit & self._freed:
                self._forget()
            return
        self.bits |= bit
        for path, alternatives in wanted.payload.paths:
            if path not in self._paths:
                self._paths[path] = self._tree.add(path)
            self._paths[path].add(alternatives, wanted.compiled, bit)
        self._tree.prepare()
        self._forget()

    def remove(self, wanted: Filter, bit: int) -> None:
        """Remove a filter that `add` has added."""
        if wanted.payload is None:
            return
        self.bits &= ~bit
        self._freed |= bit
        for path, alternatives in wanted.payload.paths:
            self._paths[path].remove(alternatives, bit)
            if not self._paths[path].bits:
                del self._paths[path]
                self._tree.remove(path)
        if not self.bits:
            self._forget_results()  # first: without patterns, none of them is computed again
            self._forget()
            self._values_size = 0

    def passed(self, record: bytes) -> int:
        """Return the filters whose pattern a record matches, and all filters without a pattern.

        Args:
            record: a valid record.
        """
        key = record if len(record) < MAX_KEY_SIZE else hashlib.blake2b(record).digest()
        passed = self._results.get(key)
        if passed is None:
            before, matched = self._thread_time(), self.expensive_seconds
            # Decoded JSON has no cycles. Of a record of 1 MiB, garbage collections would take nine
            # tenths of the time.
            was_enabled = gc.isenabled()
            gc.disable()
            try:
                passed = self._evaluate(record)
            finally:
                if was_enabled:
                    gc.enable()
            size = RESULT_SIZE + len(key) + getsizeof(passed)
            if self._results_size + size > MAX_RESULTS_SIZE:
                self._forget_results()
            self._results[key] = passed
            self._results_size += size
            seconds = self._thread_time() - before
            self.seconds += seconds
            if seconds > SLOW_RECORD_TIME:
                self._slow_seconds += seconds
            others = seconds - (self.expensive_seconds - matched)
            usual = USUAL_RECORD_TIME + USUAL_BYTE_TIME * len(record)
            self.expensive_seconds += max(0.0, others - usual)
        return passed

    def _evaluate(self, record: bytes) -> int:
        try:
            payload = self._tree.payload_of(record)
        except (ValueError, RecursionError):
            return ~self.bits
        found = self._walk(payload)
        if found is None:
            return ~self.bits
        shape = frozenset(found)
        passed = self._shapes.get(shape)
        if passed is None:
            passed = self._passed_without(shape)
        for path, bits in found.items():
            passed &= ~path.bits | path.present | bits
        return passed

    def _walk(self, payload: object) -> dict[PathAlternatives, int] | None:
        """Return the paths in a payload, each with the filters that a value passes.

        Return `None` if there are too many elements of lists.
        """
        found: dict[PathAlternatives, int] = {}
        room = MAX_ELEMENTS
        pending = [(payload, self._tree.root)]  # not recursive: lists may be nested deeply
        while pending:
            item, node = pending.pop()
            path = node.path
            if type(item) is list:
                room -= len(item)
                if room < 0:
                    return None
                pending += [(each, node) for each in item]
                if path is not None:
                    found.setdefault(path, 0)
                continue
            if path is not None:
                found[path] = found.get(path, 0) | self._passed(path, item)
            if type(item) is dict:
                for key in item.keys() & node.keys.keys():
                    pending.append((item[key], node.keys[key]))
            elif node.keys and isinstance(item, Struct):
                for name, below in node.fields:
                    value = getattr(item, name)
                    if value is not UNSET:
                        pending.append((value, below))
        return found

    def _passed(self, path: PathAlternatives, item: object) -> int:
        value = value_of(item)
        if not (isinstance(value, str) and path.is_slow):
            return path.passed(value)
        passed = path.remembered.get(value)
        if passed is None:
            before = self._thread_time()
            passed = path.passed(value)
            size = VALUE_SIZE + getsizeof(value) + getsizeof(passed)
            if self._values_size + size > MAX_VALUES_SIZE:
                for each in self._paths.values():
                    each.remembered.clear()
                self._values_size = 0
            path.remembered[value] = passed
            self._values_size += size
            self.expensive_seconds += self._thread_time() - before
        return passed

    def _passed_without(self, shape: frozenset[PathAlternatives]) -> int:
        """Return the filters that do not miss a path in a payload that has only these paths."""
        before = self._thread_time()
        failed = 0
        for path in self._paths.values():
            if path not in shape:
                failed |= path.bits & ~path.absent
        if len(self._shapes) >= MAX_SHAPES:
            self._shapes.clear()
        self._shapes[shape] = ~failed
        self.expensive_seconds += self._thread_time() - before
        return ~failed

    def _forget(self) -> None:
        self.forgotten_seconds += self._slow_seconds
        self._freed = 0
        self._shapes.clear()
        self._forget_results()

    def _forget_results(self) -> None:
        self._results.clear()
        self._results_size = 0
        self._slow_seconds = 0.0
