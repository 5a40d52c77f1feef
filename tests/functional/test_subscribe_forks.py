# SPDX-License-Identifier: Apache-2.0
"""Processes that subscribe and fork: the child never disturbs its parent's connection."""

from __future__ import annotations

import signal

import pytest

from support.records import record
from support.relay import RunningRelay
from support.scripts import Scripts

READER = """
import ctypes, os, signal, sys, threading
from notif_relay import WrongProcess, subscribe

subscriber = subscribe(sys.argv[1], timeout=30)
print("subscribed", flush=True)

def fork():
    return eval(sys.argv[2])()

def wait_for_child(pid):
    assert os.waitpid(pid, 0)[1] == 0
"""

CHILDREN = {
    "exits": "with subscriber: sys.exit()",
    "closes": "subscriber.close(); os._exit(0)",
    "closes twice": "subscriber.close(); subscriber.close(); sys.exit()",
    "collects": "del subscriber; os._exit(0)",
    "is interrupted": "subscriber.__exit__(KeyboardInterrupt, None, None); os._exit(0)",
    "reuses descriptors": """
    os.closerange(3, 1000)
    files = [os.open(__import__("tempfile").mkstemp()[1], os.O_RDWR) for _ in range(20)]
    subscriber.close()
    for file in files:
        assert os.write(file, b"x") == 1
    os._exit(0)
""",
}

FORKING = (
    READER
    + """
print(next(subscriber).event_type, flush=True)
pid = fork()
if not pid:
    CHILD
wait_for_child(pid)
print("waited", flush=True)
print(next(subscriber).event_type, flush=True)
"""
)

FORKS = {"os.fork": "os.fork", "a fork in C": "ctypes.PyDLL(None).fork"}


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
@pytest.mark.parametrize("child", CHILDREN)
def test_end_of_a_child_leaves_its_parent_connected(
    relay: RunningRelay, scripts: Scripts, child: str, fork: str
) -> None:
    script = scripts.run("-c", FORKING.replace("CHILD", CHILDREN[child]), relay.public, fork)
    assert script.line() == "subscribed"
    with relay.produce() as producer:
        producer.sendall(record("first"))
        assert script.line() == "first"
        assert script.line() == "waited"
        producer.sendall(record("second"))
        assert script.finish() == "second\n"


READING_CHILD = (
    READER
    + """
print(next(subscriber).event_type, flush=True)
sys.stdin.readline()
print(next(subscriber).event_type, flush=True)  # the third record is read with the second
pid = fork()
if not pid:
    for _ in range(2):
        try:
            next(subscriber)
        except WrongProcess as error:
            assert f"{os.getppid()} to {sys.argv[1]}" in str(error)
            print("refused", flush=True)
    os._exit(0)
wait_for_child(pid)
print([next(subscriber).event_type for _ in range(2)], flush=True)
"""
)


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
def test_child_cannot_read_from_its_parents_connection(
    relay: RunningRelay, scripts: Scripts, fork: str
) -> None:
    script = scripts.run("-c", READING_CHILD, relay.public, fork)
    assert script.line() == "subscribed"
    with relay.produce() as producer:
        producer.sendall(record("1"))
        assert script.line() == "1"
        producer.sendall(record("2") + record("3"))
        relay.wait_status(records_delivered=3)
        script.proceed()
        assert [script.line() for _ in range(3)] == ["2", "refused", "refused"]
        producer.sendall(record("4"))
        assert script.finish() == "['3', '4']\n"


FORKED_IN_A_SIGNAL_HANDLER = (
    READER
    + """
def handle(*_):
    global child
    child = os.fork()

child = None
signal.signal(signal.SIGUSR1, handle)
print("ready", flush=True)
try:
    print(next(subscriber).event_type, flush=True)
except WrongProcess:
    os._exit(0)  # the child, which returned to the read of its parent
print([next(subscriber).event_type for _ in range(2)])
os.kill(child, signal.SIGKILL)  # it still waits if its parent was always faster
os.waitpid(child, 0)
"""
)


def test_child_of_a_signal_handler_takes_no_record(relay: RunningRelay, scripts: Scripts) -> None:
    """The handler interrupts the wait for a record, to which both processes return."""
    script = scripts.run("-c", FORKED_IN_A_SIGNAL_HANDLER, relay.public, "os.fork")
    assert script.line() == "subscribed"
    assert script.line() == "ready"
    script.signal_when_asleep(signal.SIGUSR1)
    with relay.produce() as producer:
        producer.sendall(record("1"))
        assert script.line() == "1"
        producer.sendall(record("2") + record("3"))
        assert script.finish() == "['2', '3']\n"


NEW_SUBSCRIBER = (
    READER
    + """
pid = fork()
if not pid:
    with subscribe(sys.argv[1], timeout=30) as own:
        print("ready", flush=True)
        print("child", next(own).event_type, flush=True)
    os._exit(0)
wait_for_child(pid)
print("parent", next(subscriber).event_type, flush=True)
"""
)


def test_child_can_subscribe_itself(relay: RunningRelay, scripts: Scripts) -> None:
    script = scripts.run("-c", NEW_SUBSCRIBER, relay.public, "os.fork")
    assert script.line() == "subscribed"
    assert script.line() == "ready"
    with relay.produce() as producer:
        producer.sendall(record("both"))
        assert script.finish() == "child both\nparent both\n"


OTHER_THREAD_READS = (
    READER
    + """
def read():
    for notification in subscriber:
        print(notification.event_type, flush=True)

reader = threading.Thread(target=read)
reader.start()
for _ in range(20):
    pid = fork()
    if not pid:
        subscriber.close()
        os._exit(0)
    wait_for_child(pid)
print("forked", flush=True)
sys.stdin.readline()
subscriber.close()
reader.join()
"""
)


def test_child_closes_while_a_thread_of_its_parent_reads(
    relay: RunningRelay, scripts: Scripts
) -> None:
    script = scripts.run("-c", OTHER_THREAD_READS, relay.public, "os.fork")
    assert script.line() == "subscribed"
    assert script.line() == "forked"
    with relay.produce() as producer:
        producer.sendall(record("after"))
        assert script.line() == "after"
        script.proceed()
        assert script.finish() == ""


WITH_ASYNCIO = """
import asyncio, os, sys
from notif_relay import WrongProcess
from notif_relay.aio import subscribe

async def main():
    async with subscribe(sys.argv[1], timeout=30) as subscriber:
        waiting = asyncio.create_task(anext(subscriber))
        await asyncio.sleep(0)
        pid = os.fork()
        if not pid:
            CHILD
        assert os.waitpid(pid, 0)[1] == 0
        print("waited", flush=True)
        print((await waiting).event_type)

asyncio.run(main())
"""

ASYNCIO_CHILDREN = {
    "exits": "sys.exit()",
    "closes": "subscriber.close(); os._exit(0)",
    "cancels": "waiting.cancel(); await asyncio.sleep(0); await asyncio.sleep(0); os._exit(0)",
    "reads": """
            try:
                await anext(subscriber)
            except WrongProcess:
                os._exit(0)
            os._exit(1)
""",
}


@pytest.mark.parametrize("child", ASYNCIO_CHILDREN)
def test_child_leaves_its_parents_asyncio_subscriber_connected(
    relay: RunningRelay, scripts: Scripts, child: str
) -> None:
    code = WITH_ASYNCIO.replace("CHILD", ASYNCIO_CHILDREN[child])
    script = scripts.run("-W", "ignore", "-c", code, relay.public)
    assert script.line() == "waited"
    with relay.produce() as producer:
        producer.sendall(record("after"))
        assert script.finish() == "after\n"
