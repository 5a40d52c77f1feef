# SPDX-License-Identifier: Apache-2.0
"""Tests of the bridge's target for RabbitMQ with a peer that is no broker, or a hostile one."""

from __future__ import annotations

import itertools
import resource
import socket
import struct
import time

import pytest

from support.rabbitmq import pipeline_to
from support.waiting import TIMEOUT


def method(number: int, arguments: bytes) -> bytes:
    """Return the frame of a method of class connection."""
    payload = struct.pack(">HH", 10, number) + arguments
    return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


def start(properties: bytes = b"") -> bytes:
    """Return the first frame of a broker with these properties."""
    arguments = (properties, b"AMQPLAIN", b"en_US")
    strings = b"".join(struct.pack(">I", len(each)) + each for each in arguments)
    return method(10, b"\x00\x09" + strings)


def nested(depth: int) -> bytes:
    """Return a table within a table, and so on."""
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return table


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (start(nested(20_000)), "nested too deeply"),
        (start(b"\x01aS\xff\xff\xff\xff"), "invalid frame"),
        (start(b"\x01a\xff"), "Unknown value in table"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak AMQP 0-9-1"),
        (b"AMQP\x00\x00\x09\x01", "does not speak AMQP 0-9-1"),
        (b"\x01\x00\x00\xff\xff\xff\xff" + b"x" * 100, "does not speak AMQP 0-9-1"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0ax", "has no end"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0a\xce", "invalid frame"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x99\x00\x0a\xce", "Unknown AMQP method"),
        (b"\x01\x00", "closed the connection"),
        (b"", "closed the connection"),
    ],
    ids=itertools.count(),
)
def test_invalid_answer_of_the_peer_is_a_failure(answer: bytes, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pipeline_to(f"rabbit://guest:guest@127.0.0.1:{port}/") as pipeline:
            peer, _ = server.accept()
            with peer:
                assert peer.recv(8) == b"AMQP\x00\x00\x09\x01"
                peer.sendall(answer)
            pipeline.wait_failures(1)
    assert reason in pipeline.failures[0]
    assert f"127.0.0.1:{port}" in pipeline.failures[0]


def test_proposed_frame_size_reserves_no_memory() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rabbit://guest:guest@127.0.0.1:{server.getsockname()[1]}/"
        with pipeline_to(url):
            peer, _ = server.accept()
            with peer:
                peer.settimeout(TIMEOUT)
                peer.recv(8)
                before = peak_memory()
                peer.sendall(start())
                assert b"AMQPLAIN" in peer.recv(10_000)
                peer.sendall(method(30, struct.pack(">HIH", 0, 0xFFFFFFFF, 0)))
                received = b""
                while b"\x00\x0a\x00\x28" not in received:  # Connection.Open
                    data = peer.recv(10_000)
                    assert data
                    received += data
                assert peak_memory() - before < 256 * 1024


def peak_memory() -> int:
    """Return the peak of this process's resident memory, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_close_interrupts_a_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rabbit://guest:guest@127.0.0.1:{server.getsockname()[1]}/"
        with pipeline_to(url) as pipeline:
            peer, _ = server.accept()
            peer.recv(8)
            before = time.monotonic()
        assert time.monotonic() - before < 2  # its own time limit is 5 s
        peer.close()
    assert pipeline.failures == []
