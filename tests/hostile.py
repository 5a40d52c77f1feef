# SPDX-License-Identifier: Apache-2.0
"""Peers that misbehave, each a program of its own that goes on until it is ended.

They are for tests, which look at what becomes of others beside them, and for a benchmark, which
measures it. Each is given the public and the private socket, and prints a line when it has begun.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from running import DEADLINE, first_line

_BEGINNING = """
import contextlib, itertools, json, socket, sys, time
public, ingest = sys.argv[1:]

def connect(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock

def begun():
    print("begun", flush=True)

"""

PROGRAMS = {
    "requests never finished": """
clients = [connect(public) for _ in range(50)]
for client in clients:
    client.sendall(b'{"filter": {"event_type": ["' + b"x" * 60_000)
begun()
sys.stdin.read()
""",
    "a flood of requests": """
client = connect(public)
stream = client.makefile("rb")
for number in itertools.count():
    client.sendall(json.dumps({"filter": {"event_type": ["never.%d" % number]}}).encode() + b"\\n")
    stream.readline()
    if number == 10:
        begun()
""",
    "data without end from a subscriber": """
for number in itertools.count():
    with connect(public) as client, contextlib.suppress(OSError):
        while True:
            client.sendall(b"x" * 10_000)
    if number == 3:
        begun()
    time.sleep(0.01)
""",
    "one byte a second": """
clients = [connect(ingest) for _ in range(50)]
begun()
while True:
    for client in clients:
        client.sendall(b"x")
    time.sleep(1)
""",
    "a line without end": """
client = connect(ingest)
client.sendall(b"x" * 2_000_000)
begun()
while True:
    client.sendall(b"x" * 65536)
""",
    "garbage": """
client = connect(ingest)
client.sendall(b"garbage\\n" * 1000)
begun()
while True:
    client.sendall(b"garbage\\n" * 1000)
""",
    "connections without end": """
for number in itertools.count():
    with contextlib.suppress(OSError):
        connect(public if number % 2 else ingest).close()
    if number == 5000:
        begun()
""",
    "all the descriptors": """
import os, resource, struct
first = connect(public)
relay, _, _ = struct.unpack("3i", first.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
limit = len(os.listdir(f"/proc/{relay}/fd")) + 20
resource.prlimit(relay, resource.RLIMIT_NOFILE, (limit, limit))
clients = [connect(number % 2 and public or ingest) for number in range(100)]
begun()
while True:
    clients.pop(0).close()
    clients.append(connect(public))
    time.sleep(0.1)
""",
    "all the memory it can get": """
held = []
for _ in range(300):
    with contextlib.suppress(OSError):
        client = connect(ingest)
        client.settimeout(1)
        held.append(client)
        client.sendall(b"x" * (1024 * 1024 - 1))
for _ in range(300):
    with contextlib.suppress(OSError):
        client = connect(public)
        held.append(client)
        client.sendall(b"x" * 65_000)
begun()
sys.stdin.read()
""",
}
"""By what they do."""


@contextlib.contextmanager
def misbehaving(what: str, public: Path, ingest: Path) -> Iterator[subprocess.Popen[str]]:
    """Such a program, from when it has begun until the end of the block."""
    command = [sys.executable, "-c", _BEGINNING + PROGRAMS[what], str(public), str(ingest)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert first_line(process) == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE)
