# SPDX-License-Identifier: Apache-2.0
"""One connection to the private socket."""

import socket
import time

from notif_relayd.peer import Peer
from notif_relayd.records.framing import Framer


class Producer:
    """A process that writes notifications.

    Args:
        number: the number of the connection.
        connection: a non-blocking socket.
        peer: the process that connected.
        framer: cuts what it sends into lines.
        read_size: bytes of the next read.
    """

    __slots__ = (
        "bytes",
        "framer",
        "id",
        "partial_size",
        "paused",
        "peer",
        "read_size",
        "records",
        "rejected",
        "since",
        "socket",
    )

    def __init__(
        self,
        number: int,
        connection: socket.socket,
        peer: Peer,
        framer: Framer,
        read_size: int,
    ) -> None:
        self.id = number
        self.socket = connection
        self.peer = peer
        self.framer = framer
        self.since = time.monotonic()
        """When it connected, by the monotonic clock."""
        self.records = 0
        """Valid records that were read."""
        self.bytes = 0
        """Bytes that were read."""
        self.rejected = 0
        """Records that were rejected."""
        self.partial_size = 0
        """Bytes of its partial record that count for the limit of all producers."""
        self.read_size = read_size
        """Bytes of the next read; less than usual if the producer is suspect."""
        self.paused = False
        """Whether the relay does not read from it for now."""
