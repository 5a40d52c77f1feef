# SPDX-License-Identifier: Apache-2.0
"""Cost of groups: processor time of the relay per record, as ratios within a round.

One relay runs for each of the cases, all at the same time, and each round sends the same records
through each of them, in blocks of 50 and one by one, each after the last one was delivered. The
median over the rounds is compared with a limit.

- A group of one and of eight members, without and with a window, compared with one subscriber. With
  a window the relay keeps each record until it is finished; this limit is therefore higher.
- One subscriber beside 1,000 groups that are held, compared with one beside a subscriber that has
  stopped reading: in both cases the ring keeps every record.

Exit status 1: a ratio exceeds its limit, or a record was lost.
"""

import argparse
import contextlib
import json
import os
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

MAX_WINDOW_GROUP = 2.0
"""Maximum ratio of the processor time for a group with a window to that for one subscriber."""

MAX_BESIDE = 1.03
"""Maximum ratio of the processor time for subscribers beside groups to that without groups."""

BLOCK = 50
"""Records per block."""

BLOCKS = 500
"""Blocks of a round."""

WINDOW = 1000

HELD = 1000
"""Groups without members."""

RECORD = record("compute.instance.update", publisher_id="compute.host-2", payload="x" * 900)


@dataclass(frozen=True)
class Case:
    """Who reads."""

    name: str
    plain: int = 0
    members: int = 0
    window: int | None = None
    held: int = 0
    stalled: int = 0

    @property
    def copies(self) -> int:
        """Number of times that each record is delivered."""
        return self.plain + bool(self.members)


ONE = Case("one subscriber", plain=1)
STALLED = Case("one subscriber, one stalled", plain=1, stalled=1)

COMPARED = [
    (Case("group of 1", members=1), ONE, MAX_GROUP),
    (Case("group of 8", members=8), ONE, MAX_GROUP),
    (Case("group of 1, window", members=1, window=WINDOW), ONE, MAX_WINDOW_GROUP),
    (Case("group of 8, window", members=8, window=WINDOW), ONE, MAX_WINDOW_GROUP),
    (Case("one subscriber, 1,000 held groups", plain=1, held=HELD), STALLED, MAX_BESIDE),
]
"""What is compared with what, and the maximum ratio."""

CASES = [ONE, STALLED, *(case for case, _, _ in COMPARED)]


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
        self._stalled = [relay.subscribe() for _ in range(case.stalled)]
        for number in range(case.held):
            joined(relay, group=f"held-{number}", hold=300).close()
        for _ in range(case.plain):
            self._start(relay.subscribe(), None)
        for _ in range(case.members):
            keys = {} if case.window is None else {"window": case.window}
            self._start(joined(relay, group="g", **keys), case.window)

    def _start(self, reader: Subscriber, window: int | None) -> None:
        reader.socket.settimeout(None)  # it waits until the groups of another case are there
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
        config.write_text(f"[relayd]\nmax_groups_per_user = {2 * HELD}\n")
        with running_relay(Path(directory), "--config-file", str(config)) as relay:
            readers = Readers(relay, case)
            yield relay, readers
            relay.stop()
            readers.join()


def microseconds(relay: RunningRelay, readers: Readers, copies: int, block: int) -> float:
    """Return the relay's processor time for each record, sent in blocks of so many."""
    with relay.produce() as producer:
        # Requests to the control socket take time as well.
        wait_until(lambda: relay.status()["producers"] == 1, "the producer is known")
        before = processor_time(relay)
        for _ in range(BLOCKS):
            producer.sendall(RECORD * block)
            readers.wait(copies * block)
        return (processor_time(relay) - before) / BLOCKS / block / 1000


def processor_time(relay: RunningRelay) -> int:
    """Return the processor time of the relay, in nanoseconds."""
    return int(Path(f"/proc/{relay.process.pid}/schedstat").read_text().split()[0])


def main() -> int:
    """Measure all cases and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    descriptors.raise_limit()
    first, *others = sorted(os.sched_getaffinity(0))
    exceeded = 0
    with contextlib.ExitStack() as stack:
        relays = {each: stack.enter_context(running(each)) for each in CASES}
        # The relays get a processor of their own: otherwise their time depends on where a reader
        # wakes up. The threads of the readers are those of this process.
        for relay, _ in relays.values():
            os.sched_setaffinity(relay.process.pid, [first])
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), others or [first])
        for block in (BLOCK, 1):
            times: dict[Case, list[float]] = {each: [] for each in CASES}
            for number in range(1 + rounds):
                for case, (relay, readers) in relays.items():
                    taken = microseconds(relay, readers, case.copies, block)
                    if number:
                        times[case].append(taken)
            print(f"blocks of {block}; one subscriber: {statistics.median(times[ONE]):.2f} us")
            for case, reference, limit in COMPARED:
                pairs = zip(times[case], times[reference], strict=True)
                ratio = statistics.median(one / two for one, two in pairs)
                exceeded += ratio > limit
                mark = " !" * (ratio > limit)
                print(f"  {case.name:34} {ratio:6.2f} (limit {limit}){mark}")
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
