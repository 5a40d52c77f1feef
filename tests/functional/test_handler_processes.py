# SPDX-License-Identifier: Apache-2.0
"""Forks, many processes, and the end of one."""

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
    """Read so many connections at once, each to its end; what came from each of them."""
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


LOGGER = """
import json, logging, multiprocessing, os, sys
from notif_relay import RelayHandler

handler = RelayHandler(sys.argv[1])
logger = logging.getLogger("oslo.messaging.notification")
logger.setLevel("DEBUG")
logger.addHandler(handler)

def show_stats(who):
    stats = handler.stats()
    print(who, stats.sent, stats.dropped, stats.reconnects, flush=True)
"""

ONE_OF_EIGHT = (
    LOGGER
    + """
which = int(sys.argv[2])
for number in range(10_000):
    size = (number * 7919) % 4000
    text = {"process": which, "number": number, "event_type": "e", "payload": "x" * size}
    logger.info(json.dumps(text))
handler.flush()
show_stats(which)
"""
)


def test_eight_processes_send_whole_lines_in_order(
    scripts: Scripts,
    private: PrivateSocket,
) -> None:
    processes = [scripts.run("-c", ONE_OF_EIGHT, private.path, which) for which in range(8)]
    streams = read_all(private, 8)
    outputs = [process.finish().split() for process in processes]
    whole = 0
    for stream in streams:
        lines = stream.splitlines(keepends=True)
        records = [json.loads(line) for line in lines]
        assert len({fields["process"] for fields in records if "process" in fields}) == 1
        told, present, _ = check_gaps(lines)
        # What was dropped last has been told by the flush, if the socket took it.
        assert told <= 10_000
        whole += present
    assert whole == sum(int(sent) for _, sent, _, _ in outputs)
    assert sum(int(sent) + int(dropped) for _, sent, dropped, _ in outputs) == 80_000


FORKING = (
    LOGGER
    + """
logger.info("parent 1")
pid = os.fork()
if not pid:
    show_stats("child")
    logger.info("child 1")
    logger.info("child 2")
    show_stats("child")
    sys.exit()
os.waitpid(pid, 0)
logger.info("parent 2")
show_stats("parent")
"""
)


def test_forked_child_has_its_own_connection_and_counters(
    scripts: Scripts, private: PrivateSocket
) -> None:
    script = scripts.run("-c", FORKING, private.path)
    assert sorted(read_all(private, 2)) == [b"child 1\nchild 2\n", b"parent 1\nparent 2\n"]
    assert script.finish().splitlines() == ["child 0 0 0", "child 2 0 0", "parent 2 0 0"]


FORKED_IN_C = FORKING.replace("os.fork()", "ctypes.PyDLL(None).fork()").replace(
    "import json,", "import ctypes, json,"
)
LOGGING_FIRST = FORKED_IN_C.replace('    show_stats("child")\n    logger', "    logger")


@pytest.mark.parametrize("records_tell_their_process", [True, False])
def test_fork_outside_python_is_detected(
    scripts: Scripts, private: PrivateSocket, records_tell_their_process: bool
) -> None:
    set_up = f"import logging\nlogging.logProcesses = {records_tell_their_process}\n"
    script = scripts.run("-c", set_up + LOGGING_FIRST, private.path)
    assert sorted(read_all(private, 2)) == [b"child 1\nchild 2\n", b"parent 1\nparent 2\n"]
    assert script.finish().splitlines() == ["child 2 0 0", "parent 2 0 0"]


def test_counters_start_at_zero_after_a_fork_outside_python(
    scripts: Scripts, private: PrivateSocket
) -> None:
    script = scripts.run("-c", FORKED_IN_C, private.path)
    assert sorted(read_all(private, 2)) == [b"child 1\nchild 2\n", b"parent 1\nparent 2\n"]
    assert script.finish().splitlines() == ["child 0 0 0", "child 2 0 0", "parent 2 0 0"]


def test_records_of_another_process_are_sent(scripts: Scripts, private: PrivateSocket) -> None:
    """As a QueueListener gets them from the processes that it serves."""
    made_elsewhere = LOGGER + (
        'record = logging.LogRecord("n", 20, "", 1, "from elsewhere", None, None)\n'
        "record.process = os.getppid()\n"
        "logger.handle(record)\n"
        'logger.info("from here")\n'
        'show_stats("all")\n'
    )
    script = scripts.run("-c", made_elsewhere, private.path)
    assert read_all(private, 1) == [b"from elsewhere\nfrom here\n"]
    assert script.finish().splitlines() == ["all 2 0 0"]


KEPT_OVER_A_FORK = (
    LOGGER
    + """
import ctypes, logging.handlers
logger.info("parent 1")
logger.removeHandler(handler)
memory = logging.handlers.MemoryHandler(10, flushLevel=100, target=handler)
logger.addHandler(memory)
logger.info("made by the parent")  # with its process id
if not eval(sys.argv[2])():
    memory.flush()
    show_stats("child")
    os._exit(0)
os.wait()
memory.buffer.clear()
logger.info("parent 2")
memory.flush()
show_stats("parent")
"""
)


OLD_KERNEL = "import notif_relay.forks; notif_relay.forks.MADV_WIPEONFORK = 9999\n"
"""No kernel knows this number."""


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
@pytest.mark.parametrize("kernel", ["", OLD_KERNEL], ids=["this kernel", "old kernel"])
def test_child_never_sends_on_its_parents_connection(
    scripts: Scripts, private: PrivateSocket, fork: str, kernel: str
) -> None:
    """Not even a log record that its parent made, which logging's MemoryHandler has kept."""
    script = scripts.run("-c", kernel + KEPT_OVER_A_FORK, private.path, fork)
    assert sorted(read_all(private, 2)) == [b"made by the parent\n", b"parent 1\nparent 2\n"]
    assert script.finish().splitlines() == ["child 1 0 0", "parent 2 0 0"]


FORKING_WITH_A_HALF_SENT_RECORD = (
    LOGGER.replace("sys.argv[1])", "sys.argv[1], 0, 1 << 24)")
    + """
logger.info(json.dumps({"number": 0}))
logger.info(json.dumps({"number": 1, "payload": "x" * int(sys.argv[2])}))  # goes out in half
logger.info(json.dumps({"number": 2}))  # missed
pid = os.fork()
if not pid:
    logger.info(json.dumps({"child": 1}))
    show_stats("child")
    sys.exit()
os.waitpid(pid, 0)
sys.stdin.readline()
logger.info(json.dumps({"number": 3}))
show_stats("parent")
"""
)


def test_child_does_not_send_the_parents_remainder(
    scripts: Scripts, private: PrivateSocket
) -> None:
    script = scripts.run(
        "-c", FORKING_WITH_A_HALF_SENT_RECORD, private.path, kernel_capacity(private) * 3 // 2
    )
    with private.accept() as parent, private.accept() as child:
        assert child.read_to_end() == b'{"child": 1}\n'
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
logger.info("before")
if os.fork():
    os._exit(0)
os.setsid()
os.closerange(3, 1000)
file = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
logger.info("daemon")
os.write(file, b"untouched")
show_stats("daemon")
"""
)


def test_daemon_that_closes_all_files_reconnects(
    scripts: Scripts, private: PrivateSocket, directory: Path
) -> None:
    script = scripts.run("-c", DAEMON, private.path, directory / "file")
    assert sorted(read_all(private, 2)) == [b"before\n", b"daemon\n"]
    assert script.finish() == "daemon 1 0 0\n"
    assert (directory / "file").read_text() == "untouched"


MULTIPROCESSING = (
    LOGGER
    + """
def work(number):
    logger.info("worker %d", number)
    return handler.stats().sent

if __name__ == "__main__":
    logger.info("main")
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
    # Spawned workers import the main module again: it must be a file.
    (directory / "main.py").write_text(MULTIPROCESSING)
    script = scripts.run(directory / "main.py", private.path, method)
    streams = sorted(read_all(private, 2))
    assert streams == [b"main\n", b"worker 0\nworker 1\nworker 2\n"]
    assert script.finish() == "main 1 0 0\n"


AT_EXIT = (
    LOGGER.replace("sys.argv[1])", "sys.argv[1], 0, 1 << 24)")
    + """
logger.info(json.dumps({"number": 0}))
logger.info(json.dumps({"number": 1, "payload": "x" * int(sys.argv[2])}))  # goes out in half
logger.info(json.dumps({"number": 2}))  # missed
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
        logger.info("finalizer")

late = Late()
logging.shutdown()
logger.info("after shutdown")
"""
)


def test_records_after_logging_shutdown_are_sent(scripts: Scripts, private: PrivateSocket) -> None:
    script = scripts.run("-c", LATE, private.path)
    with private.accept() as incoming:
        assert incoming.line() == b"after shutdown\n"
    script.finish()
