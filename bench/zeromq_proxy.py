# SPDX-License-Identifier: Apache-2.0
"""The proxy of ZeroMQ from PUB to SUB. It runs in C; Python only configures it."""

import sys

import zmq


def main(ingest: str, public: str) -> None:
    context = zmq.Context()
    incoming, outgoing = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    for each in (incoming, outgoing):
        # Set no limit. By default, the proxy drops messages if more than a thousand are pending.
        each.set_hwm(0)
        each.setsockopt(zmq.BACKLOG, 4096)
    incoming.bind(f"ipc://{ingest}")
    outgoing.bind(f"ipc://{public}")
    zmq.proxy(incoming, outgoing)


if __name__ == "__main__":
    main(*sys.argv[1:])
