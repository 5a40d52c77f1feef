# SPDX-License-Identifier: Apache-2.0
"""In any schedule of sender and relay, lines are whole and gap records account for missing ones.

Hypothesis generates schedules of a producer that sends and a relay that reads some bytes, reads
nothing, or closes the connection with or without having read everything.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from notif_relay.sender import Sender
from support.private_socket import PrivateSocket, ProducerConnection
from support.records import check_gaps, numbered_text

MAX_SIZE = 1048576

ACTIONS = ["send"] * 12 + ["read"] * 4 + ["flush", "read all and end", "end"]
SIZES = [60, 5_000, 70_000, 700_000, MAX_SIZE]
STEPS = st.tuples(st.sampled_from(ACTIONS), st.sampled_from(SIZES))
FINAL_STEPS = [*[("read", 1 << 30), ("flush", 0)] * 10, ("send", 60), ("read", 1 << 30)]


class Schedule:
    """A sender, a relay that reads on request, and the whole lines that the relay received."""

    def __init__(self, private: PrivateSocket) -> None:
        self.now = 0.0
        self.sender = Sender(private.path, max_wait=0, clock=lambda: self.now)
        self.emitted = 0
        self.lines: list[bytes] = []
        self._private = private
        self._incoming: ProducerConnection | None = None
        self._accepted = 0
        self._data = b""

    def run_step(self, step: str, value: int) -> None:
        self.now += 10  # longer than the maximum backoff between attempts to connect
        if step == "send":
            self.sender.send(numbered_text(self.emitted, value))
            self.emitted += 1
        elif step == "flush":
            self.sender.flush()
        elif self._incoming is not None:
            if "read" in step:
                self._data += self._incoming.read_available(value if step == "read" else 1 << 30)
            if "end" in step:
                self.end()
        if self.sender.connects > self._accepted:
            self._incoming = self._private.accept()
            self._accepted += 1

    def end(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None
        # A real relay rejects the torn line at the end of a connection.
        lines = self._data.splitlines(keepends=True)
        self.lines += [line for line in lines if line.endswith(b"\n")]
        self._data = b""


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=15, max_size=60))
def test_lines_are_whole_and_gaps_account_for_the_missing(
    directory: Path, steps: list[tuple[str, int]]
) -> None:
    with PrivateSocket(directory / "ingest.sock") as private:
        schedule = Schedule(private)
        for step, value in steps + FINAL_STEPS:
            schedule.run_step(step, value)
        schedule.end()
        schedule.sender.close()
    sender = schedule.sender
    assert sender.sent + sender.dropped == schedule.emitted
    accounted, present, unknown = check_gaps(schedule.lines)
    assert (accounted, unknown) == (schedule.emitted, False)
    stream = b"".join(schedule.lines)
    if b'"dropped": null' not in stream:
        assert present == sender.sent
    for kind in (b"producer_congested", b"relay_restarted", b'"dropped": null'):
        event(f"{kind.decode()}: {kind in stream}")
