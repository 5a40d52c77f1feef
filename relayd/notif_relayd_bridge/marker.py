# SPDX-License-Identifier: Apache-2.0
"""The mark of a record that a bridge has brought to this host.

A bridge that carries records from a broker to a relay adds the key `KEY` to each of them. A bridge
in the other direction skips these records, so that two hosts do not exchange them forever.
"""

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
