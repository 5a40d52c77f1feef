# SPDX-License-Identifier: Apache-2.0
"""A subscriber that prints every record from the relay's public socket.

A record is one JSON object on one line.
"""

import socket
import sys


def main(path: str) -> None:
    """Print records until the relay closes the connection."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        with sock.makefile("rb") as records:
            for record in records:
                sys.stdout.buffer.write(record)
                sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
