# SPDX-License-Identifier: Apache-2.0
"""Misbehaving programs and the busy producer of a hub; each runs until it is killed.

Tests check that other peers of the relay lose nothing, and bench/hostile.py measures their delay.
The arguments of a program are the paths of the public and the private socket. It prints a line when
its attack has begun.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from notif_relayd.access.request_pacer import BURST, INTERVAL, MIN_COST, SHARE
from support.relay import RunningRelay, Subscriber
from support.waiting import TIMEOUT, first_line

# BURST: number of requests of minimum cost after which the relay limits the user to its share.
_PREAMBLE = f"""
import contextlib, itertools, json, selectors, socket, sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
public, ingest = sys.argv[1:]
control = public.replace("notifications.sock", "control.sock")
BURST = {int(BURST / (MIN_COST - SHARE * INTERVAL)) + 50}
"""

_FUNCTIONS = """
def connect(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock

def begun():
    print("begun", flush=True)

def ask(client, *globs):
    client.sendall(json.dumps({"filter": {"event_type": globs}}).encode() + b"\\n")

def produce(event_type, payload=""):
    record = {"event_type": event_type, "priority": "INFO", "payload": payload}
    producer.sendall(json.dumps(record).encode() + b"\\n")

"""

PROGRAMS = {
    "unfinished requests": """
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
    ask(client, f"never.{number}")
    stream.readline()
    if number == BURST:
        begun()
""",
    "endless data from a subscriber": """
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
    "an endless line": """
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
    "endless connections": """
for number in itertools.count():
    with contextlib.suppress(OSError):
        connect(public if number % 2 else ingest).close()
    if number == 5000:
        begun()
""",
    "all file descriptors": """
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
    "as much memory as possible": """
held = []
for _ in range(300):
    with contextlib.suppress(OSError):
        client = connect(ingest)
        client.settimeout(1)
        held.append(client)
        client.sendall(b"x" * (1024 * 1024 - 1))
for _ in range(160):
    with contextlib.suppress(OSError):
        client = connect(public)
        held.append(client)
        client.sendall(b"x" * 65_000)
time.sleep(1)  # until the relay has read it
begun()
sys.stdin.read()
""",
    "largest filters": """
def start(number):
    globs = [(f"{number}.{part}" + "*\u0101" * 128)[:256] for part in range(55)]
    wanted = dict.fromkeys(("event_type", "priority", "publisher_id"), globs)
    request = json.dumps({"filter": wanted}, ensure_ascii=False, separators=(",", ":")).encode()
    assert 60_000 < len(request) < 65_536
    client = connect(public)
    client.sendall(request + b"\\n")
    return client

clients = [start(number) for number in range(300)]
begun()
for number in itertools.count(len(clients)):
    clients.pop(0).close()
    clients.append(start(number))
    time.sleep(0.05)
""",
    "payload patterns that change": """
clients = [(client := connect(public), client.makefile("rb")) for _ in range(30)]
for number in itertools.count():
    client, stream = clients[number % 30]
    pattern = {f"path{each}.{number}": [{"not": ["x"]}] for each in range(15)}
    pattern["payload"] = [{"glob": f"*{number}*x*{each}*"} for each in range(4)]
    client.sendall(json.dumps({"filter": {"payload": pattern}}).encode() + b"\\n")
    stream.readline()
    if number == 60:  # each takes a millisecond
        begun()
""",
    "filter changes on 500 connections": """
clients = selectors.DefaultSelector()
for number in range(500):
    client = connect(public)
    clients.register(client, selectors.EVENT_READ)
    ask(client, f"never.{number}")
answers = 0
while True:
    for key, _ in clients.select():
        if b"notif_relayd.subscribed" in key.fileobj.recv(65_536):
            answers += 1
            ask(key.fileobj, f"never.{answers}.{key.fd}")
            if answers == BURST:
                begun()
""",
    "requests byte by byte": """
def start():
    client = connect(public)
    client.sendall(b'{"filter": {"event_type": ["' + b"x" * 50_000)
    client.setblocking(False)
    return client

clients = [start() for _ in range(50)]
burst_ends = time.monotonic() + 3
while True:
    if burst_ends and time.monotonic() > burst_ends:
        burst_ends = None
        begun()
    for place, client in enumerate(clients):
        try:
            client.send(b"x")
        except BlockingIOError:
            pass
        except OSError:
            clients[place] = start()
""",
    "one changing filter among many": """
others = [connect(public) for _ in range(300)]
for number, client in enumerate(others):
    ask(client, f"never.{number}", f"*never*{number}")
for client in others:
    client.recv(65_536)
producer = connect(ingest)
client = connect(public)
client.settimeout(0.001)
ask(client, "never")
answers = 0
for number in itertools.count():
    produce(f"hostile.{number}")
    with contextlib.suppress(TimeoutError):
        if b"notif_relayd.subscribed" in client.recv(65_536):
            answers += 1
            ask(client, f"never.{number}")
            if answers == BURST - len(others):
                begun()
""",
    "passed descriptors": """
from support.passed_sockets import lingering_socket, pass_socket
for number, path in enumerate(itertools.cycle((public, ingest, control))):
    with lingering_socket() as passed, connect(path) as client:
        with contextlib.suppress(PermissionError):  # EPERM if the kernel refuses descriptors
            pass_socket(client, b"x", passed)
    if number == 10:
        begun()
    time.sleep(0.02)
""",
    "event types of 1 MB": """
with_filter = connect(public)
ask(with_filter, "never.*", "*never*")
producer = connect(ingest)
for number in itertools.count():
    produce(f"hostile.{number}." + "x" * 1_000_000)
    if number == 100:
        begun()
    if number > 100:
        time.sleep(0.2)
""",
    "disconnects within long records": """
producer = connect(ingest)
clients = []
for number in itertools.count():
    clients.append(connect(public))
    produce("hostile", "x" * 1_000_000)
    if number == 100:
        begun()
    if number > 100:
        clients.pop(0).close()
        time.sleep(0.2)
""",
    "forged records of the relay": """
gap = '{"event_type": "notif_relayd.gap", "priority": "WARN", "payload": %s}'
forged = '{"event_type": %s, "priority": "ERROR", "payload": {}, "event_type": %s}'
payloads = ["null", "[]", '{"dropped": -1, "reason": "congestion"}', '{"dropped": "1"}']
names = [r'"notif_relayd.error"', r'"\\u006eotif_relayd.gap"', '"other"']
lines = [gap % payload for payload in payloads]
lines += [forged % pair for pair in itertools.permutations(names, 2)]
producer = connect(ingest)
for number in itertools.count():
    producer.sendall("\\n".join(lines + [""]).encode())
    if number == 20:
        begun()
""",
    "silent clients of the control socket": """
clients = [connect(control) for _ in range(40)]
begun()
while True:
    clients.pop(0).close()
    clients.append(connect(control))
    time.sleep(0.01)
""",
    "members of groups that never finish": """
members = [connect(public) for _ in range(60)]
for number, member in enumerate(members):
    member.sendall(b'{"group": "g%d", "window": 100, "hold": 100}\\n' % (number // 2))
flood = b'{"done": 0}\\n' * 5000
selector = selectors.DefaultSelector()
for member in members[:10]:
    member.setblocking(False)
    selector.register(member, selectors.EVENT_WRITE)
begun()
while True:
    for key, _ in selector.select():
        with contextlib.suppress(BlockingIOError):
            key.fileobj.send(flood)
""",
    "endless groups": """
wanted = connect(public)
wanted.sendall(b'{"filter": {"event_type": ["test"]}, "group": "g", "window": 1}\\n')
unwanted = connect(public)
unwanted.sendall(b'{"filter": {"event_type": ["other"]}, "group": "g"}\\n')
burst_is_used_up = time.monotonic() + 1
has_begun = False
for number in itertools.count():
    member = connect(public)
    names = {"filter": {"publisher_id": [str(number)]}, "group": "g"}
    held = {"group": f"h{number}", "window": 65536, "hold": 300}
    for request in (names, held, {"group": "g"}):
        with contextlib.suppress(OSError):
            member.sendall(json.dumps(request).encode() + b"\\n")
    with contextlib.suppress(OSError):
        member.recv(1000)
    member.close()
    if not has_begun and time.monotonic() > burst_is_used_up:
        has_begun = True
        begun()
""",
    "200,000 kinds of notifications of a hub": """
selector = selectors.DefaultSelector()
for number in range(10):
    reader = connect(public)
    reader.sendall(b'{"filter": {"publisher_id": ["hostile-%d*"]}}\\n' % number)
    selector.register(reader, selectors.EVENT_READ)
producer = connect(ingest)
line = (
    '{"event_type": "hostile.%d", "publisher_id": "hostile-%05d", "priority": "INFO", '
    '"payload": "%s"}\\n'
)

def send(first, payload):
    numbers = range(first, first + 50)
    lines = [line % (number % 5, number // 5 % 40_000, payload) for number in numbers]
    producer.sendall("".join(lines).encode())
    for key, _ in selector.select(0):
        key.fileobj.recv(1_000_000)

for first in range(0, 200_000, 50):
    send(first, "")
begun()
started = time.monotonic()
for first in itertools.count(step=50):
    send(first, "x" * 900)
    time.sleep(max(0, started + first / 10_000 - time.monotonic()))
""",
    "a process name with escapes": """
import ctypes
PR_SET_NAME = 15
ctypes.CDLL(None).prctl(PR_SET_NAME, b"\\x1b[31m\\nERROR")
producer = connect(ingest)
for number in itertools.count():
    producer.sendall(b"garbage\\n" * 10)
    connect(public).close()
    if number == 100:
        begun()
    time.sleep(0.01)
""",
}
"""Source code by description."""

PRODUCING = {
    "one changing filter among many",
    "event types of 1 MB",
    "disconnects within long records",
    "200,000 kinds of notifications of a hub",
}
"""Programs that also send records; their event types begin with ``hostile``."""


@contextlib.contextmanager
def subscribe_beside(what: str, relay: RunningRelay) -> Iterator[Subscriber]:
    """Yield a subscriber that receives ``test.*`` and no records of a hostile program.

    It sets a filter only if the program sends records: without a filter the relay is faster.

    Args:
        what: Key of the program in PROGRAMS.
        relay: The relay to subscribe to.
    """
    with relay.subscribe() as subscriber:
        if what in PRODUCING:
            subscriber.socket.sendall(json.dumps({"filter": {"event_type": ["test.*"]}}).encode())
            subscriber.socket.sendall(b"\n")
            assert subscriber.notification()["event_type"] == "notif_relayd.subscribed"
        yield subscriber


@contextlib.contextmanager
def hostile_program(what: str, public: Path, ingest: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program until the end of the block; its attack has begun when the block is entered.

    Args:
        what: Key of the program in PROGRAMS.
        public: Path of the public socket.
        ingest: Path of the private socket.
    """
    program = _PREAMBLE + _FUNCTIONS + PROGRAMS[what]
    command = [sys.executable, "-c", program, str(public), str(ingest)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert first_line(process) == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT)
