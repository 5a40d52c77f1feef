# SPDX-License-Identifier: Apache-2.0
"""``driver = unix`` with threads, forks, multiprocessing, and at the exit of a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.messaging_service import (
    IMPORT,
    PATCH,
    SERVICE,
    SET_UP,
    read_notifications,
    run_service,
)
from support.private_socket import PrivateSocket
from support.records import check_gaps
from support.relay import RunningRelay
from support.scripts import Scripts

AT_EXIT = (
    SERVICE
    + """
number = 0
driver = UnixDriver(CONF)
while producer().dropped < 2:
    fields = {"event_type": "e", "priority": "INFO", "number": number, "x": "x" * 20_000}
    driver.notify({}, fields, "INFO", None)
    number += 1
print(number, flush=True)
sys.stdin.readline()
"""
)


def test_gap_record_is_sent_at_exit(scripts: Scripts, private: PrivateSocket, config: Path) -> None:
    script = run_service(scripts, AT_EXIT, config)
    number = int(script.line())
    with private.accept() as incoming:
        data = incoming.read_available()
        script.proceed()
        lines = (data + incoming.read_to_end()).splitlines(keepends=True)
    accounted, present, unknown = check_gaps(lines)
    assert (accounted, unknown) == (number, False)
    assert number - present in {1, 2}  # the first of the dropped records may be completed
    assert script.finish() == ""


THREADS = """
import itertools

def notify(thread):
    for number in range(200):
        notifier.info({}, "e", {"thread": thread, "number": number, "x": "x" * 2000})

threads = [threading.Thread(target=notify, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
# A gap record waits until the next notification that the socket has room for.
for number in itertools.count(200):
    before = producer().dropped
    notifier.info({}, "e", {"thread": 0, "number": number})
    if producer().dropped == before:
        break
print(before)
"""


ORDERS = {
    "real threads": SERVICE,
    "patched first": PATCH + SERVICE,
    "patched after the import": IMPORT + PATCH + SET_UP,
    "patched after the notifier was created": SERVICE + PATCH,
}


@pytest.mark.parametrize("order", ORDERS)
def test_threads_of_any_kind_share_the_connection(
    scripts: Scripts, private: PrivateSocket, config: Path, order: str
) -> None:
    script = run_service(scripts, ORDERS[order] + THREADS, config)
    numbers: dict[int, list[int]] = {thread: [] for thread in range(8)}
    dropped_count = 0
    with private.accept() as incoming:
        for each in read_notifications(incoming):
            payload = each["payload"]
            if each["event_type"] == "notif_relayd.gap":  # possible on a slow machine
                dropped_count += payload["dropped"]
            else:
                numbers[payload["thread"]].append(payload["number"])
    assert script.finish() == f"{dropped_count}\n"
    last = max(numbers[0])
    assert sum(map(len, numbers.values())) + dropped_count == 7 * 200 + last + 1
    assert all(received == sorted(set(received)) for received in numbers.values())


FORK = (
    SERVICE
    + """
busy = threading.Event()

def notify():
    while not busy.is_set():
        notifier.info({}, "parent", {})

thread = threading.Thread(target=notify, daemon=True)
thread.start()
for number in range(20):
    pid = os.fork()  # probably while the thread sends a notification
    if not pid:
        signal.alarm(10)  # kills a child that waits for a lock of the parent's thread
        notifier.info({}, "child", {"number": number})
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
busy.set()
thread.join()
notifier.info({}, "end", {})
"""
)


def test_forked_child_connects_while_a_thread_is_sending(
    scripts: Scripts, relay: RunningRelay, config: Path
) -> None:
    children: list[int] = []
    events: set[str] = set()
    with relay.subscribe() as subscriber:
        script = run_service(scripts, FORK, config)
        while "end" not in events or len(children) < 20:
            notification = subscriber.notification()
            events.add(notification["event_type"])
            if notification["event_type"] == "child":
                children.append(notification["payload"]["number"])
        script.finish()
    assert sorted(children) == list(range(20))
    assert events == {"parent", "child", "end"}


WORKERS = (
    IMPORT
    + """
def work(number):
    notifier.info({}, "worker", {"number": number})
    return number
"""
    + SET_UP
    + """
if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[2]).Pool(1) as pool:
        assert pool.map(work, range(3)) == [0, 1, 2]
        pool.close()
        pool.join()
    notifier.info({}, "main", {})
"""
)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_workers_notify(
    scripts: Scripts, private: PrivateSocket, directory: Path, config: Path, method: str
) -> None:
    (directory / "main.py").write_text(WORKERS)
    script = scripts.run("-W", "ignore", directory / "main.py", config, method)
    streams = []
    for _ in range(2):
        with private.accept() as incoming:
            streams.append([each["event_type"] for each in read_notifications(incoming)])
    assert streams == [["worker"] * 3, ["main"]]
    script.finish()
