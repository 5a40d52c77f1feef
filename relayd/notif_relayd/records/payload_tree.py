# SPDX-License-Identifier: Apache-2.0
"""The places in a payload to which the paths of all filters lead, and a decoder of these places.

msgspec skips the keys that a structure does not have, in a third of the time of decoding them. So
the decoder is made of structures that have the keys of the paths. Where there are many keys, and
within lists, everything is decoded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from notif_relay.records import parse_integer, refuse_constant
from notif_relayd.records.path_alternatives import PathAlternatives

MAX_FIELDS = 32
"""Maximum number of fields of a structure. Each takes 0.1 µs, whether a payload has it or not."""

MAX_STRUCTURES = 32
"""Maximum number of structures; to make one takes 0.1 ms, which is charged to the user whose
request adds a path."""


class _Record(msgspec.Struct, gc=False):
    payload: Any = None


class _Object(msgspec.Struct, gc=False):
    """An object of which nothing is decoded."""


_decode_all = msgspec.json.Decoder(_Record).decode
_decode_slowly = json.JSONDecoder(parse_int=parse_integer, parse_constant=refuse_constant).decode


class Node:
    """A place in a payload."""

    __slots__ = ("fields", "keys", "path", "uses")

    def __init__(self) -> None:
        self.keys: dict[str, Node] = {}
        """The places below, by one key or by several keys joined with dots."""
        self.fields: tuple[tuple[str, Node], ...] = ()
        """The same by the fields of the structure that the decoder returns."""
        self.path: PathAlternatives | None = None
        """The path that ends here, if any."""
        self.uses = 0
        """Number of paths that lead here or further."""


class PayloadTree:
    """The paths of all filters."""

    def __init__(self) -> None:
        self.root = Node()
        """The payload itself."""
        self._decode: Callable[[bytes], Any] = _decode_all
        self._is_changed = False

    def add(self, path: str) -> PathAlternatives:
        """Add a path; `prepare` must be called before the next record is decoded."""
        self._is_changed = True
        parts = path.split(".")
        nodes = [self.root]
        for part in parts:
            nodes.append(nodes[-1].keys.get(part) or Node())
        for end, node in enumerate(nodes):
            node.uses += 1
            for start, above in enumerate(nodes[:end]):
                above.keys[".".join(parts[start:end])] = node
        alternatives = nodes[-1].path = PathAlternatives()
        return alternatives

    def remove(self, path: str) -> None:
        """Remove a path. The decoder may decode it until a path is added."""
        parts = path.split(".")
        nodes = [self.root]
        for part in parts:
            nodes.append(nodes[-1].keys[part])
        nodes[-1].path = None
        for end, node in enumerate(nodes):
            node.uses -= 1
            if not node.uses:
                for start, above in enumerate(nodes[:end]):
                    del above.keys[".".join(parts[start:end])]

    def prepare(self) -> None:
        """Make a decoder of the paths that were added."""
        if self._is_changed:
            self._is_changed = False
            payload = _Types().of(self.root)
            record = msgspec.defstruct("Record", [("payload", payload, None)], gc=False)
            self._decode = msgspec.json.Decoder(record).decode

    def payload_of(self, record: bytes) -> object:
        """Return the payload of a valid record; `None` if it has none.

        Objects are dictionaries, or structures with the fields of their nodes.

        Raises:
            ValueError, RecursionError: the record cannot be decoded.
        """
        for decode in (self._decode, _decode_all):
            try:
                return decode(record).payload
            except msgspec.MsgspecError:
                # msgspec rejects lone surrogates, numbers out of range, and integers with many
                # digits; in a structure, also integers of more than 64 bits.
                continue
        fields = _decode_slowly(record.decode())
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
        return fields.get("payload")


class _Types:
    """The types of the values at the nodes of a tree."""

    def __init__(self) -> None:
        self._found: dict[Node, Any] = {}

    def of(self, node: Node) -> Any:
        """Return the type of a node; set the fields of the nodes."""
        if node not in self._found:
            self._found[node] = Any
            node.fields = ()
            if not node.keys:
                self._found[node] = _any_or(_Object)
            elif _is_structure(node) and len(self._found) < MAX_STRUCTURES:
                self._found[node] = _any_or(self._structure(node))
        return self._found[node]

    def _structure(self, node: Node) -> Any:
        named = [(f"f{number}", *item) for number, item in enumerate(node.keys.items())]
        fields = [
            (name, self.of(below), msgspec.field(default=UNSET, name=key))
            for name, key, below in named
        ]
        node.fields = tuple((name, below) for name, _, below in named)
        return msgspec.defstruct("Object", fields, gc=False)


def _any_or(structure: Any) -> Any:
    """Return the type of any JSON, with this structure instead of a dictionary."""
    return structure | list[Any] | str | int | float | bool | None


def _is_structure(node: Node) -> bool:
    # msgspec refuses names that JSON escapes.
    return len(node.keys) <= MAX_FIELDS and all(
        key.isprintable() and not {*key} & {*'"\\'} for key in node.keys
    )
