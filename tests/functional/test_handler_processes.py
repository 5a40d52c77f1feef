# SPDX-License-Identifier: Apache-2.0
"""The handler in several processes, in forked processes, and at the exit of a process."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from support.private_socket import PrivateSocket, kernel_capacity
from support.records import check_gaps
from support.scripts import Scripts
from support.waiting import TIMEOUT


def read_all(private: PrivateSocket, connections: int) -> list[bytes]:
    """Read this number of connections concurrently to their ends; return the bytes of each."""
    streams = [b""] * connections

    def read(number: int) -> None:
        with private.accept() as incoming:
            streams[number] = incoming.read_to_end()

    threads = [threading.Thread(target=read, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    return streams


def event_types(private: PrivateSocket, count: int) -> list[list[str]]:
    """Return the event types that arrive on each of `count` connections."""
    streams = read_all(private, count)
    return [[json.loads(line)["event_type"] for line in each.splitlines()] for each in streams]


LOGGER = """
import json, logging, multiprocessing, os, sys
from notif_relay import RelayHandler

handler = RelayHandler(sys.argv[1])
logger = logging.getLogger("oslo.messaging.notification")
logger.setLevel("DEBUG")
logger.addHandler(handler)

def to_json(fields):
    return json.dumps({"event_type": "e", "priority": "INFO", **fields})

def named(name):
    return json.dumps({"event_type": name, "priority": "INFO"})

def show_stats(name):
    stats = handler.stats()
    print(name, stats.sent, stats.dropped, stats.reconnects, flush=True)
"""

ONE_OF_EIGHT = (
    LOGGER
    + """
index = int(sys.argv[2])
for number in range(10_000):
    size = (number * 7919) % 4000
    text = {"process": index, "number": number, "event_type": "e", "payload": "x" * size}
    logger.info(to_json(text))
handler.flush()
show_stats(index)
"""
)


def test_eight_processes_send_whole_lines_in_order(
    scripts: Scripts,
    private: PrivateSocket,
) -> None:
    processes = [scripts.run("-c", ONE_OF_EIGHT, private.path, index) for index in range(8)]
    streams = read_all(private, 8)
    outputs = [process.finish().split() for process in processes]
    received = 0
    for stream in streams:
        lines = stream.splitlines(keepends=True)
        records = [json.loads(line) for line in lines]
        assert len({fields["process"] for fields in records if "process" in fields}) == 1
        accounted, present, _ = check_gaps(lines)
        # The flush sends the last gap record only if the socket takes it.
        assert accounted <= 10_000
        received += present
    assert received == sum(int(sent) for _, sent, _, _ in outputs)
    assert sum(int(sent) + int(dropped) for _, sent, dropped, _ in outputs) == 80_000


FORKING = (
    LOGGER
    + """
logger.info(named("parent 1"))
pid = os.fork()
if not pid:
    show_stats("child")
    logger.info(named("child 1"))
    logger.info(named("child 2"))
    show_stats("child")
    sys.exit()
os.waitpid(pid, 0)
logger.info(named("parent 2"))
show_stats("parent")
"""
)


def test_forked_child_has_its_own_connection_and_counters(
    scripts: Scripts, private: PrivateSocket
) -> None:
    script = scripts.run("-c", FORKING, private.path)
    assert sorted(event_types(private, 2)) == [["child 1", "child 2"], ["parent 1", "parent 2"]]
    assert script.finish().splitlines() == ["child 0 0 0", "child 2 0 0", "parent 2 0 0"]


FORKED_IN_C = FORKING.replace("os.fork()", "ctypes.PyDLL(None).fork()").replace(
    "import json,", "import ctypes, json,"
)
LOGGING_FIRST = FORKED_IN_C.replace('    show_stats("child")\n    logger', "    logger")


@pytest.mark.parametrize("records_have_process", [True, False])
def test_fork_outside_python_is_detected(
    scripts: Scripts, private: PrivateSocket, records_have_process: bool
) -> None:
    set_up = f"import logging\nlogging.logProcesses = {records_have_process}\n"
    script = scripts.run("-c", set_up + LOGGING_FIRST, private.path)
    assert sorted(event_types(private, 2)) == [["child 1", "child 2"], ["parent 1", "parent 2"]]
    assert script.finish().splitlines() == ["child 2 0 0", "parent 2 0 0"]


def test_counters_start_at_zero_after_a_fork_outside_python(
    scripts: Scripts, private: PrivateSocket
) -> None:
    script = scripts.run("-c", FORKED_IN_C, private.path)
    assert sorted(event_types(private, 2)) == [["child 1", "child 2"], ["parent 1", "parent 2"]]
    assert script.finish().splitlines() == ["child 0 0 0", "child 2 0 0", "parent 2 0 0"]


def test_records_of_another_process_are_sent(scripts: Scripts, private: PrivateSocket) -> None:
    """A QueueListener receives such records from other processes."""
    made_elsewhere = LOGGER + (
        'record = logging.LogRecord("n", 20, "", 1, named("from elsewhere"), None, None)\n'
        "record.process = os.getppid()\n"
        "logger.handle(record)\n"
        'logger.info(named("from here"))\n'
        'show_stats("all")\n'
    )
    script = scripts.run("-c", made_elsewhere, private.path)
    assert event_types(private, 1) == [["from elsewhere", "from here"]]
    assert script.finish().splitlines() == ["all 2 0 0"]


BUFFERED_OVER_FORK = (
    LOGGER
    + """
import ctypes, logging.handlers
logger.info(named("parent 1"))
logger.removeHandler(handler)
memory = logging.handlers.MemoryHandler(10, flushLevel=100, target=handler)
logger.addHandler(memory)
logger.info(named("made by the parent"))  # with the parent's process ID
if not eval(sys.argv[2])():
    memory.flush()
    show_stats("child")
    os._exit(0)
os.wait()
memory.buffer.clear()
logger.info(named("parent 2"))
memory.flush()
show_stats("parent")
"""
)


OLD_KERNEL = "import notif_relay.forks; notif_relay.forks.MADV_WIPEONFORK = 9999\n"
"""Program text that selects an madvise() advice that no kernel supports."""


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
@pytest.mark.parametrize("kernel", ["", OLD_KERNEL], ids=["this kernel", "old kernel"])
def test_child_never_sends_on_its_parents_connection(
    scripts: Scripts, private: PrivateSocket, fork: str, kernel: str
) -> None:
    """This includes a record that the parent created and that logging's MemoryHandler kept."""
    script = scripts.run("-c", kernel + BUFFERED_OVER_FORK, private.path, fork)
    assert sorted(event_types(private, 2)) == [["made by the parent"], ["parent 1", "parent 2"]]
    assert script.finish().splitlines() == ["child 1 0 0", "parent 2 0 0"]


FORKING_WITH_PARTIAL_RECORD = (
    LOGGER.replace("sys.argv[1])", "sys.argv[1], 0, 1 << 24)")
    + """
logger.info(to_json({"number": 0}))
logger.info(to_json({"number": 1, "payload": "x" * int(sys.argv[2])}))  # partly sent
logger.info(to_json({"number": 2}))  # dropped
pid = os.fork()
if not pid:
    logger.info(to_json({"child": 1}))
    show_stats("child")
    sys.exit()
os.waitpid(pid, 0)
sys.stdin.readline()
logger.info(to_json({"number": 3}))
show_stats("parent")
"""
)


def test_child_does_not_send_the_parents_remainder(
    scripts: Scripts, private: PrivateSocket
) -> None:
    script = scripts.run(
        "-c", FORKING_WITH_PARTIAL_RECORD, private.path, kernel_capacity(private) * 3 // 2
    )
    with private.accept() as parent, private.accept() as child:
        assert json.loads(child.read_to_end())["child"] == 1
        assert script.line() == "child 1 0 0"
        data = parent.read_available()
        assert not data.endswith(b"\n")
        script.proceed()
        lines = (data + parent.read_to_end()).splitlines(keepends=True)
    assert check_gaps(lines) == (4, 3, False)
    assert script.finish() == "parent 3 1 0\n"


DAEMON = (
    LOGGER
    + """
logger.info(named("before"))
if os.fork():
    os._exit(0)
os.setsid()
os.closerange(3, 1000)
file = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
logger.info(named("daemon"))
os.write(file, b"untouched")
show_stats("daemon")
"""
)


def test_daemon_that_closes_all_files_reconnects(
    scripts: Scripts, private: PrivateSocket, directory: Path
) -> None:
    script = scripts.run("-c", DAEMON, private.path, directory / "file")
    assert sorted(event_types(private, 2)) == [["before"], ["daemon"]]
    assert script.finish() == "daemon 1 0 0\n"
    assert (directory / "file").read_text() == "untouched"


MULTIPROCESSING = (
    LOGGER
    + """
def work(number):
    logger.info(named("worker %d" % number))
    return handler.stats().sent

if __name__ == "__main__":
    logger.info(named("main"))
    with multiprocessing.get_context(sys.argv[2]).Pool(1) as pool:
        assert pool.map(work, range(3)) == [1, 2, 3]
        pool.close()
        pool.join()
    show_stats("main")
"""
)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_workers_have_their_own_connections(
    scripts: Scripts, private: PrivateSocket, directory: Path, method: str
) -> None:
    # Spawned workers import the main module again, so it must be a file.
    (directory / "main.py").write_text(MULTIPROCESSING)
    script = scripts.run(directory / "main.py", private.path, method)
    streams = sorted(event_types(private, 2))
    assert streams == [["main"], ["worker 0", "worker 1", "worker 2"]]
    assert script.finish() == "main 1 0 0\n"


AT_EXIT = (
    LOGGER.replace("sys.argv[1])", "sys.argv[1], 0, 1 << 24)")
    + """
logger.info(to_json({"number": 0}))
logger.info(to_json({"number": 1, "payload": "x" * int(sys.argv[2])}))  # partly sent
logger.info(to_json({"number": 2}))  # dropped
show_stats("before exit")
sys.stdin.readline()
"""
)


def test_remainder_and_gap_record_are_sent_at_exit(
    scripts: Scripts, private: PrivateSocket
) -> None:
    script = scripts.run("-c", AT_EXIT, private.path, kernel_capacity(private) * 3 // 2)
    assert script.line() == "before exit 1 1 0"
    with private.accept() as incoming:
        data = incoming.read_available()
        script.proceed()
        lines = (data + incoming.read_to_end()).splitlines(keepends=True)
    assert check_gaps(lines) == (3, 2, False)
    assert script.finish() == ""


LATE = (
    LOGGER
    + """
class Late:
    def __del__(self):
        logger.info(named("finalizer"))

late = Late()
logging.shutdown()
logger.info(named("after shutdown"))
"""
)


def test_records_after_logging_shutdown_are_sent(scripts: Scripts, private: PrivateSocket) -> None:
    script = scripts.run("-c", LATE, private.path)
    with private.accept() as incoming:
        assert json.loads(incoming.line())["event_type"] == "after shutdown"
    script.finish()
