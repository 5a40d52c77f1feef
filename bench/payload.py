# SPDX-License-Identifier: Apache-2.0
"""Cost of payload patterns, in one run.

- The relay's processor time for each record of 3 KiB and of 64 KiB: without a pattern, with 1, 10
  and 100 subscribers with different patterns for one path, and with a pattern for 16 paths. No
  record passes a filter, so that only the selection differs. Ratios within a round are compared
  with limits.
- What a hostile subscriber can achieve, without the rest of the relay: the time to select a record
  by as many expensive patterns as ``max_filter_bytes_per_user`` permits, and the time for the most
  expensive records. docs/explanation/security.rst states the limits.

Exit status 1: a limit is exceeded.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from filters import divide, microseconds, relay, verdict

from notif_relayd.records.filters import Filter, View
from notif_relayd.records.payload_index import MAX_ELEMENTS
from notif_relayd.records.selector import Selector
from notif_relayd.records.subscription_request import Request
from support.records import record

MAX_PATTERNS = 1.5
"""Maximum ratio of the processor time with 100 patterns for one path to that with one pattern."""

MAX_PATHS = 4.0
"""Maximum ratio of the processor time with 16 paths to that with one path."""

MAX_VALUE = 0.4
"""Maximum milliseconds for one value and the patterns of one user."""

MAX_RECORD = 50.0
"""Maximum milliseconds for one record of 1 MiB and a cheap pattern."""

USER_BYTES = 8 << 20
"""Default of ``max_filter_bytes_per_user``."""

HOST = "nova_object.data.host"


def instance(number: int, size: int) -> bytes:
    """Return a notification of about `size` bytes, like those of nova."""
    item = {"nova_object.data": {"address": "10.0.0.1", "version": 4, "label": "private"}}
    data: dict[str, Any] = {f"field{each}": f"value {number} {each}" for each in range(30)}
    data |= {"host": f"cmp-{number % 200}", "state": "active", "ip_addresses": [item]}
    data["ip_addresses"] *= max(1, (size - 1200) // len(json.dumps(item)))
    payload = {"nova_object.name": "InstancePayload", "nova_object.data": data}
    return record("compute.instance.update", payload=payload, number=number)


def hosts(count: int) -> list[dict[str, Any]]:
    """Return filters with different patterns for one path."""
    return [{"payload": {HOST: [f"other-{number}"]}} for number in range(count)]


CASES: dict[str, list[dict[str, Any]]] = {
    "no pattern": [{"publisher_id": ["never"]}],
    "1 pattern": hosts(1),
    "10 patterns": hosts(10),
    "100 patterns": hosts(100),
    "16 paths": [
        {"payload": {f"nova_object.data.field{each}": [{"not": ["x"]}] for each in range(15)}}
    ],
}
CASES["16 paths"][0]["payload"][HOST] = ["other"]


def measured(rounds: int, count: int, size: int) -> dict[str, list[float]]:
    """Return the processor time for each record, by case."""
    found: dict[str, list[float]] = {case: [] for case in CASES}
    with contextlib.ExitStack() as stack:
        relays = {case: stack.enter_context(relay(asked)) for case, asked in CASES.items()}
        for each in range(rounds):
            lines = [instance(each * count + number, size) for number in range(count)]
            for case, running in relays.items():
                found[case].append(microseconds(running, lines, 20))
    return found


def of_one_user(filters: Iterable[dict[str, Any]]) -> list[Filter]:
    """Return as many of the filters as one user may have."""
    found, left = [], USER_BYTES
    for each in filters:
        parsed = Filter.parse(each)
        left -= Request(parsed, each).charge
        if left < 0:
            break
        found.append(parsed)
    return found


def searched(glob: str) -> Iterator[dict[str, Any]]:
    """Yield filters with one path; `glob` has a place for a number."""
    for number in range(1 << 20):
        some = [{"glob": glob.format(number * 8 + each)} for each in range(8)]
        yield {"payload": {"a": some}}


def many_paths() -> Iterator[dict[str, Any]]:
    for number in range(1 << 20):
        yield {"payload": {f"a{number * 16 + each}": [{"not": ["x"]}] for each in range(16)}}


def ranges() -> Iterator[dict[str, Any]]:
    for number in range(1 << 20):
        yield {"payload": {"a": [{"range": [number * 64 + n, None]} for n in range(64)]}}


def milliseconds(filters: list[Filter], lines: list[bytes]) -> float:
    """Return the median time to select a record."""
    selector: Selector[int] = Selector()
    for number, each in enumerate(filters):
        selector.add(View(each), number)
    taken = []
    for line in lines:
        before = time.thread_time()
        selector.passed(("test.event", "INFO", "test"), line)
        taken.append(time.thread_time() - before)
    return statistics.median(taken) * 1000


def hostile() -> Iterator[tuple[str, float, float]]:
    """Yield what is hostile, the milliseconds for a record, and the limit."""
    texts = [record(payload={"a": f"{'ab' * 120}{number}"}) for number in range(20)]
    for glob in ("*a*b{}*", "*a" * 50 + "*{}*", "?a{}*", "*[a]*[b]*[c{}]", "?*ab*{}"):
        filters = of_one_user(searched(glob))
        yield f"{len(filters) * 8} globs {glob[:20]}", milliseconds(filters, texts), MAX_VALUE
    filters = of_one_user(ranges())
    numbers = [record(payload={"a": number + 0.5}) for number in range(20)]
    yield f"{len(filters) * 64} ranges", milliseconds(filters, numbers), MAX_VALUE
    filters = of_one_user(many_paths())
    payload = {f"a{number}": "y" for number in range(len(filters) * 16)}
    lines = [record(payload=payload | {"b": number}) for number in range(20)]
    size = len(lines[0]) // 1024
    yield (
        f"{len(payload)} paths in a record of {size} KiB",
        milliseconds(filters, lines),
        MAX_RECORD,
    )
    for where, path in (("beside the path", "a.b"), ("at the path", "x.b")):
        cheap = [Filter.parse({"payload": {path: [{"not": ["x"]}]}})]
        for what, item in (
            ("objects", "{}"),
            ("lists", "[]"),
            ("numbers", "1"),
            ("keys", '"{}":0'),
        ):
            lines = [of_a_mebibyte(item, number) for number in range(5)]
            yield f"1 MiB of {what} {where}", milliseconds(cheap, lines), MAX_RECORD
    cheap = [Filter.parse({"payload": {"a.b": [{"not": ["x"]}]}})]
    values = [f"value {number}" for number in range(MAX_ELEMENTS)]
    lines = [record(payload={"a": [{"b": f"{n} {each}"} for each in values]}) for n in range(5)]
    yield f"{MAX_ELEMENTS} elements of a list", milliseconds(cheap, lines), MAX_RECORD


def of_a_mebibyte(item: str, number: int) -> bytes:
    """Return a record with so many copies of an item; a key has a place for a number."""
    start = f'{{"event_type":"a","priority":"INFO","payload":{{"n":{number},"x":'
    end = "}}\n"
    if item.startswith('"'):
        count = (1 << 20) // (len(item) + 4)
        return f"{start}{{{','.join(item.format(n) for n in range(count))}}}{end}".encode()
    return f"{start}[{','.join([item] * ((1 << 20) // (len(item) + 1)))}]{end}".encode()


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of payload patterns.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--records", type=int, default=4000, help="per round and relay")
    options = parser.parse_args()
    reached = []
    for size, count in ((3 << 10, options.records), (64 << 10, options.records // 10)):
        found = measured(options.rounds, count, size)
        print(f"records of {len(instance(1, size))} bytes, the relay's processor time for each:")
        print("  " + ", ".join(f"{k}: {statistics.median(v):.1f} µs" for k, v in found.items()))
        one = found["1 pattern"]
        print(f"  a pattern costs {statistics.median(divide(one, found['no pattern'])):.1f} times")
        reached.append(verdict("100 patterns", divide(found["100 patterns"], one), MAX_PATTERNS))
        reached.append(verdict("16 paths", divide(found["16 paths"], one), MAX_PATHS))
    print("the patterns of one user, to select one record:")
    for what, taken, limit in hostile():
        reached.append(taken <= limit)
        missed = "" if reached[-1] else ": MISSED"
        print(f"  {what}: {taken:.2f} ms, at most {limit:.2f} ms{missed}")
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())
