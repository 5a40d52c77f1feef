# SPDX-License-Identifier: Apache-2.0
"""Ports on the loopback interface for servers that cannot choose one or have to keep it."""

import contextlib
import random
import socket
from pathlib import Path

_FIRST = 10240
"""Lowest port; most below are assigned to a service."""

_ATTEMPTS = 100


def free_port() -> int:
    """Return a port that is not in use, and that the kernel gives to no client.

    A port that the kernel chooses itself could be taken by a client until the server uses it, or
    while the server is restarted.

    Raises:
        RuntimeError: no port is free.
    """
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(_ATTEMPTS):
        port = random.randrange(_FIRST, end)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port on the loopback interface")
