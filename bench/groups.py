# SPDX-License-Identifier: Apache-2.0
"""Cost of groups: processor time of the relay per record, as ratios within a round.

One relay runs for each of the cases, all at the same time, and each round sends the same records
through each of them: in blocks, as fast as the relay takes them, and one by one, each after the
last one was delivered. The median over the rounds is compared with a limit.

- A group of one and of eight members, without and with a window, compared with one subscriber.
- One subscriber beside 1,000 groups that are held, compared with one subscriber alone.

Exit status 1: a ratio exceeds its limit, or a record was lost.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import descriptors
from support.records import record
from support.relay import RunningRelay, Subscriber, running_relay
from support.waiting import wait_until

MAX_GROUP = 1.25
"""Maximum ratio of the processor time for a group to that for one subscriber."""

MAX_BESIDE = 1.03
"""Maximum ratio of the processor time for a subscriber beside groups to that for one alone."""

BLOCK = 50
"""Records per send."""

WINDOW = 1000

HELD = 1000
"""Groups without members."""

RECORD = record("compute.instance.update", publisher_id="compute.host-2", payload="x" * 900)


@dataclass(frozen=True)
class Case:
    """Who reads."""

    name: str
    limit: float
    plain: int = 0
    members: int = 0
    window: int | None = None
    held: int = 0


CASES = [
    Case("one subscriber", 1.0, plain=1),
    Case("group of 1", MAX_GROUP, members=1),
    Case("group of 8", MAX_GROUP, members=8),
    Case("group of 1, window", MAX_GROUP, members=1, window=WINDOW),
    Case("group of 8, window", MAX_GROUP, members=8, window=WINDOW),
    Case("beside held groups", MAX_BESIDE, plain=1, held=HELD),
]


class Readers:
    """Threads that read what a relay sends, and count the records.

    Args:
        relay: the relay.
        case: who reads.
    """

    def __init__(self, relay: RunningRelay, case: Case) -> None:
        self._counted = threading.Condition()
        self._count = 0
        self._threads: list[threading.Thread] = []
        for number in range(case.held):
            joined(relay, group=f"held-{number}", hold=300).close()
        for _ in range(case.plain):
            self._start(relay.subscribe(), None)
        for _ in range(case.members):
            keys = {} if case.window is None else {"window": case.window}
            self._start(joined(relay, group="g", **keys), case.window)

    def _start(self, reader: Subscriber, window: int | None) -> None:
        thread = threading.Thread(target=self._read, args=(reader, window), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _read(self, reader: Subscriber, window: int | None) -> None:
        received = done = 0
        while data := reader.socket.recv(1 << 20):
            count = data.count(b"\n")
            received += count
            if window is not None and received - done >= window // 2:
                done = received
                reader.socket.sendall(b'{"done": %d}\n' % done)
            with self._counted:
                self._count += count
                self._counted.notify()

    def wait(self, count: int) -> None:
        """Wait until so many records were received since the last call."""
        with self._counted:
            assert self._counted.wait_for(lambda: self._count >= count, 30), "a record was lost"
            assert self._count == count, "too many records"
            self._count = 0

    def join(self) -> None:
        """Wait for the end of all connections."""
        for each in self._threads:
            each.join()


def joined(relay: RunningRelay, **keys: object) -> Subscriber:
    """Return a member of a group that has its answer."""
    reader = Subscriber(relay.public)
    reader.socket.sendall(json.dumps(keys).encode() + b"\n")
    while b'"notif_relayd.subscribed"' not in (line := reader.line()):
        assert b'"notif_relayd.error"' not in line, line
    return reader


@contextlib.contextmanager
def running(case: Case) -> Iterator[tuple[RunningRelay, Readers]]:
    """Run a relay with its readers."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "relayd.conf")
        config.write_text(f"[relayd]\nmax_groups_per_user = {2 * HELD}\nring_size = {256 << 20}\n")
        with running_relay(Path(directory), "--config-file", str(config)) as relay:
            readers = Readers(relay, case)
            yield relay, readers
            relay.stop()
            readers.join()


def microseconds(relay: RunningRelay, readers: Readers, records: int, at_once: bool) -> float:
    """Return the relay's processor time for each record."""
    before = processor_time(relay)
    with relay.produce() as producer:
        if at_once:
            for _ in range(records // BLOCK):
                producer.sendall(RECORD * BLOCK)
            readers.wait(records)
        else:
            for _ in range(records):
                producer.sendall(RECORD)
                readers.wait(1)
        wait_until(lambda: relay.status()["producers"] == 1, "the producer is known")
    return (processor_time(relay) - before) / records / 1000


def processor_time(relay: RunningRelay) -> int:
    """Return the processor time of the relay, in nanoseconds."""
    return int(Path(f"/proc/{relay.process.pid}/schedstat").read_text().split()[0])


def main() -> int:
    """Measure all cases and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    descriptors.raise_limit()
    exceeded = 0
    with contextlib.ExitStack() as stack:
        relays = {each: stack.enter_context(running(each)) for each in CASES}
        for at_once, records in ((True, 20_000), (False, 1000)):
            times: dict[Case, list[float]] = {each: [] for each in CASES}
            for number in range(1 + rounds):
                for case, (relay, readers) in relays.items():
                    taken = microseconds(relay, readers, records, at_once)
                    if number:
                        times[case].append(taken)
            print("in blocks" if at_once else "one by one")
            first, *others = CASES
            print(f"  {first.name:20} {statistics.median(times[first]):6.2f} us per record")
            for case in others:
                pairs = zip(times[case], times[first], strict=True)
                ratio = statistics.median(one / two for one, two in pairs)
                exceeds = ratio > case.limit
                exceeded += exceeds
                print(f"  {case.name:20} {ratio:6.2f} (limit {case.limit})" + " !" * exceeds)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
