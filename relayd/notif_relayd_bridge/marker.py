# SPDX-License-Identifier: Apache-2.0
"""The mark of a record that a bridge has brought to this host.

A bridge that carries records from a broker to a relay adds the key `KEY` to each of them. A bridge
in the other direction skips these records, so that two hosts do not exchange them forever.
"""

import json

from notif_relay.errors import UnreadableRecord
from notif_relay.notification import decode

KEY = "_bridge"
"""Key of a record, beside its six fields; the value is the name of the bridge."""

_QUOTED = f'"{KEY}"'.encode()


def is_brought_in(record: bytes) -> bool:
    """Return whether a bridge has brought in a record; False if it cannot be decoded."""
    if record.find(_QUOTED) < 0:
        return False
    # The payload may contain the key as well.
    try:
        return KEY in decode(record)
    except UnreadableRecord:
        return False


def mark(record: bytes, name: str) -> bytes:
    """Return a record with the mark of a bridge as its last field, and a newline at the end.

    A mark that the record has already is removed, unless its name is written with escape sequences.
    Readers use the last of two values, so the new mark counts in any case.

    Args:
        record: a JSON object that is not empty.
        name: the name of the bridge, in ASCII letters, digits and ``._-``.
    """
    if record.find(_QUOTED) >= 0:
        record = _without_mark(record)
    # Only white space can follow the last brace.
    return b'%b, %b: "%b"}\n' % (record[: record.rindex(b"}")], _QUOTED, name.encode())


def _without_mark(record: bytes) -> bytes:
    """Return the record without the key; unchanged if Python cannot decode and encode it."""
    try:
        fields = decode(record)
        if KEY not in fields:
            return record
        del fields[KEY]
        return json.dumps(fields, allow_nan=False).encode()
    except (UnreadableRecord, ValueError, RecursionError):
        return record
