# SPDX-License-Identifier: Apache-2.0
"""ZeroMQ's own proxy from PUB to SUB. It runs in C: Python only sets it up."""

import sys

import zmq


def main(ingest: str, public: str) -> None:
    context = zmq.Context()
    incoming, outgoing = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    for each in (incoming, outgoing):
        # No limit: by default it drops what is more than a thousand messages behind.
        each.set_hwm(0)
        each.setsockopt(zmq.BACKLOG, 4096)
    incoming.bind(f"ipc://{ingest}")
    outgoing.bind(f"ipc://{public}")
    zmq.proxy(incoming, outgoing)


if __name__ == "__main__":
    main(*sys.argv[1:])
