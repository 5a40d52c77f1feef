# SPDX-License-Identifier: Apache-2.0
"""Cost of filters, as ratios within a round; the median over the rounds is compared with a limit.

- Throughput to an unfiltered subscriber with and without ten filtered subscribers, each of which
  gets one record in a thousand. Two relays run at the same time, and each round sends the same
  records through both.
- Processor time of the relay per record with 100 subscribers with different filters: new event
  types compared with a single one, and with a subscriber that changes its filter every 50 ms
  compared with none.
- The same with 1, 10 and 100 subscribers with different filters: 200,000 pairs of an event type and
  a publisher, as on a hub, compared with 200 pairs.
- Processor time to select records by 100 filters, without the rest of the relay: 5,000 event types
  and 1,000 publishers compared with 200 event types and one publisher.

Exit status 1: a ratio exceeds its limit, or a record was lost, which makes the relay look fast.
"""

import argparse
import contextlib
import itertools
import json
import select
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.streams import Streams
from notif_relayd.records.filters import Filter, View
from support import descriptors
from support.records import record
from support.relay import RunningRelay, Subscriber, running_relay
from support.waiting import wait_until

MIN_THROUGHPUT = 0.8
"""Minimum ratio of the throughput with ten filtered subscribers to the throughput without them."""

MAX_VARIETY = 2.5
"""Maximum ratio of the time to select records with many to that with few different values."""

MAX_NEW = 10.0
"""Maximum ratio of the processor time with new event types to that with a single one."""

MAX_CHANGING = 1.5
"""Maximum ratio of the processor time with a subscriber that changes its filter to that without."""

MAX_PAIRS = 2.0
"""Maximum ratio of the processor time with 200,000 different pairs to that with 200 pairs."""

PAIRS = 200_000
"""Pairs of an event type and a publisher: 20 event types of 10,000 hosts, or 5 of 40,000."""

FILTERED = 10
FILTERS = 100
BLOCK = 100
"""Records per send. Every tenth block contains a record for a filter."""

CHANGE_INTERVAL = 0.05
"""Seconds between two changes of a filter."""

Request = dict[str, list[str]]


def block(number: int) -> bytes:
    """Return records of 1 KiB; every tenth block contains one that a filter selects."""
    lines = [record("compute.instance.update", payload="x" * 950)] * BLOCK
    if number % 10 == 0:
        lines[0] = record(f"rare.{number // 10 % FILTERED}", payload="x" * 950)
    return b"".join(lines)


def rare(number: int) -> Request:
    """Return a filter that passes one record in a thousand."""
    return {"event_type": [f"rare.{number}", f"never.{number}.*"]}


def usual(number: int) -> Request:
    """Return one of many typical filters: literals, prefixes and others."""
    return [
        {"event_type": [f"compute.event{number}.*"]},
        {"event_type": [f"compute.event{number}.end", f"volume.event{number}"]},
        {"event_type": ["compute.*"], "publisher_id": [f"compute.host-{number}"]},
        {"event_type": [f"volume{number}.*"], "priority": ["ERROR"]},
        {"event_type": [f"*.event{number}.*", f"*.exists{number}"]},
    ][number % 5]


@contextlib.contextmanager
def relay(requests: Iterable[Request]) -> Iterator[RunningRelay]:
    """Run a relay with a subscriber for each of these filters; all subscribers read."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running_relay(Path(directory), "--relayd-ring_size", str(256 << 20)) as running,
        contextlib.ExitStack() as stack,
    ):
        readers = []
        for wanted in requests:
            reader = stack.enter_context(running.subscribe())
            ask(reader, wanted)
            readers.append(reader)
        thread = threading.Thread(target=read_all, args=(readers,), daemon=True)
        thread.start()
        yield running
        running.stop()
        thread.join()


def ask(reader: Subscriber, wanted: Request) -> None:
    """Change a subscriber's filter, and wait until it is in force."""
    reader.socket.sendall(json.dumps({"filter": wanted}).encode() + b"\n")
    while b'"notif_relayd.subscribed"' not in (line := reader.line()):
        assert b'"notif_relayd.error"' not in line, line


def read_all(readers: list[Subscriber]) -> None:
    """Read until the relay closes the connections."""
    left = {reader.socket.fileno(): reader.socket for reader in readers}
    while left:
        for fd in select.select(list(left), [], [])[0]:
            if not left[fd].recv(1 << 20):
                del left[fd]


def seconds(running: RunningRelay, blocks: list[bytes]) -> float:
    """Return the time until an unfiltered subscriber has all records, in seconds."""
    with running.subscribe() as subscriber, running.produce() as producer:
        sender = threading.Thread(target=send_all, args=(producer, blocks))
        started = time.perf_counter()
        sender.start()
        left = sum(map(len, blocks))
        while left > 0:
            left -= len(subscriber.socket.recv(1 << 20))
        taken = time.perf_counter() - started
        sender.join()
    assert left == 0
    return taken


def send_all(producer: socket.socket, blocks: list[bytes]) -> None:
    for each in blocks:
        producer.sendall(each)


def lines_of(pairs: Iterable[tuple[str, str]]) -> list[bytes]:
    """Return a record of 1 KiB for each pair of an event type and a publisher."""
    return [record(each, publisher_id=who, payload="x" * 900) for each, who in pairs]


def microseconds(running: RunningRelay, lines: list[bytes], at_a_time: int = BLOCK) -> float:
    """Return the relay's processor time for each record.

    Args:
        running: the relay.
        lines: the records.
        at_a_time: number of records per send.
    """
    blocks = [b"".join(lines[at : at + at_a_time]) for at in range(0, len(lines), at_a_time)]
    expected = running.status()["records_received"] + len(lines)
    used = processor_time(running)
    with running.produce() as producer:
        send_all(producer, blocks)
        wait_until(
            lambda: running.status()["records_received"] >= expected, "all records are received"
        )
    return (processor_time(running) - used) / len(lines) / 1000


def processor_time(running: RunningRelay) -> int:
    """Return the processor time of the relay, in nanoseconds."""
    return int(Path(f"/proc/{running.process.pid}/schedstat").read_text().split()[0])


@contextlib.contextmanager
def changing(running: RunningRelay) -> Iterator[None]:
    """Let a subscriber change its filter of 64 expensive patterns repeatedly."""
    ended = threading.Event()

    def change(reader: Subscriber) -> None:
        for number in itertools.count():
            ask(reader, {"event_type": [f"*e*{number}-{each}*" for each in range(64)]})
            if ended.wait(CHANGE_INTERVAL):
                return

    with running.subscribe() as reader:
        ask(reader, {"event_type": ["never"]})
        thread = threading.Thread(target=change, args=(reader,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def selecting(event_types: int, publishers: int, records: int) -> float:
    """Return the microseconds to select each record by 100 filters, in batches."""
    streams = Streams(Store(1 << 20))
    for number in range(FILTERS):
        streams.of(View(Filter.parse(usual(number))))
    routing_keys = [
        (f"compute.event{n % event_types}.end", "INFO", f"compute.host-{n // 5 % publishers}")
        for n in range(records)
    ]
    batches = [routing_keys[at : at + BLOCK] for at in range(0, records, BLOCK)]
    for _ in range(2):  # in the first iteration, all values are new
        started = time.process_time()
        for batch in batches:
            for _ in streams.select(batch, b""):
                pass
        taken = time.process_time() - started
    return taken / records * 1e6


def throughput(rounds: int, records: int) -> tuple[list[float], float, int]:
    """Return the ratios of throughput, the rate without filters, and the records lost."""
    blocks = [block(number) for number in range(records // BLOCK)]
    ratios, rates = [], []
    with relay([]) as alone, relay(map(rare, range(FILTERED))) as beside:
        for _ in range(rounds):
            without = seconds(alone, blocks)
            ratios.append(without / seconds(beside, blocks))
            rates.append(records / without)
        lost = sum(each.status()["records_dropped"] for each in (alone, beside))
    return ratios, statistics.median(rates), lost


def processing(rounds: int, records: int) -> dict[str, list[float]]:
    """Return the processor time for each record, by what is sent."""
    few = [f"compute.event{number % 200}.start" for number in range(records)]
    new = map("compute.event{}.start".format, itertools.count(200))
    cases: dict[str, Callable[[], Iterable[str]]] = {
        "one": lambda: ["compute.event1.start"] * records,
        "new": lambda: itertools.islice(new, records),
        "calm": lambda: few,
        "changing": lambda: few,
    }
    publisher = itertools.repeat("compute.host-2")
    found: dict[str, list[float]] = {case: [] for case in cases}
    with relay(map(usual, range(FILTERS))) as running:
        for _ in range(rounds):
            for case, event_types in cases.items():
                with changing(running) if case == "changing" else contextlib.nullcontext():
                    pairs = zip(event_types(), publisher, strict=False)
                    found[case].append(microseconds(running, lines_of(pairs)))
    return found


def pairs_of(event_types: int, publishers: int) -> Iterator[tuple[str, str]]:
    """Yield all pairs, in an order that has no pattern, again and again."""
    number, pairs = 0, event_types * publishers
    while True:
        number = (number + 7919) % pairs  # a prime number that divides no number of pairs here
        host = number // event_types
        yield f"compute.event{number % event_types}.end", f"compute.cmp-{host:06}.example.org"


def varying(rounds: int, records: int, filters: int) -> dict[str, list[float]]:
    """Return the processor time for each record with few and with many different pairs."""
    cases = {
        "200": pairs_of(20, 10),
        "20 x 10,000": pairs_of(20, 10_000),
        "5 x 40,000": pairs_of(5, 40_000),
    }
    found: dict[str, list[float]] = {case: [] for case in cases}
    with relay(map(usual, range(filters))) as running:
        for pairs in cases.values():  # all values are new
            microseconds(running, lines_of(itertools.islice(pairs, PAIRS)))
        for _ in range(rounds):
            for case, pairs in cases.items():
                found[case].append(
                    microseconds(running, lines_of(itertools.islice(pairs, records)))
                )
    return found


def verdict(what: str, ratios: list[float], limit: float, least: bool = False) -> bool:
    """Print the median of the ratios with their range, and return whether it is reached."""
    ratio = statistics.median(ratios)
    reached = ratio >= limit if least else ratio <= limit
    print(
        f"{what}: {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"at {'least' if least else 'most'} {limit:.2f}{'' if reached else ': MISSED'}"
    )
    return reached


def divide(some: list[float], others: list[float]) -> list[float]:
    return [one / other for one, other in zip(some, others, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of filters.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--records", type=int, default=100_000, help="per round and relay")
    options = parser.parse_args()
    rounds, records = options.rounds, options.records

    ratios, rate, lost = throughput(rounds, records)
    print(f"{rounds} rounds of {records} records; alone: {rate:.0f} records/s of 1 KiB")
    reached = [verdict(f"throughput beside {FILTERED} filters", ratios, MIN_THROUGHPUT, least=True)]
    if lost:
        print(f"{lost} records were lost, so the ratio is invalid")

    found = processing(rounds, records // 2)
    median = {case: statistics.median(values) for case, values in found.items()}
    print(f"{FILTERS} filters, the relay's processor time for each record:")
    print("  " + ", ".join(f"{case} {value:.2f} µs" for case, value in median.items()))
    reached.append(verdict("new event types", divide(found["new"], found["one"]), MAX_NEW))
    changed = divide(found["changing"], found["calm"])
    reached.append(verdict("a filter that changes", changed, MAX_CHANGING))

    few = [selecting(200, 1, records) for _ in range(rounds)]
    many = [selecting(5000, 1000, records) for _ in range(rounds)]
    print(
        f"to select a record: {statistics.median(few):.2f} µs with 200 event types, "
        f"{statistics.median(many):.2f} µs with 5000 of 1000 publishers"
    )
    reached.append(verdict("many event types and publishers", divide(many, few), MAX_VARIETY))

    for filters in (1, 10, FILTERS):
        found = varying(rounds, records // 2, filters)
        few, *others = found.values()
        print(f"{filters} filters, {len(found)} sets of pairs, the relay's processor time:")
        print(
            "  " + ", ".join(f"{case}: {statistics.median(found[case]):.2f} µs" for case in found)
        )
        for case, many in zip(list(found)[1:], others, strict=True):
            reached.append(verdict(f"{case} pairs", divide(many, few), MAX_PAIRS))
    return int(lost > 0 or not all(reached))


if __name__ == "__main__":
    descriptors.raise_limit()
    sys.exit(main())
