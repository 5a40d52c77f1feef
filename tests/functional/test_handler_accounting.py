# SPDX-License-Identifier: Apache-2.0
"""Whatever the relay does, and whenever: each line is whole, and gap records account for the rest.

Random schedules of a producer that sends and a relay that reads a little, reads nothing, or ends
its connection with or without having read all.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from notif_relay.sender import Sender
from support.private_socket import PrivateSocket, ProducerConnection
from support.records import check_gaps, numbered_text

LARGEST = 1048576

WHAT = ["send"] * 12 + ["read"] * 4 + ["flush", "read all and end", "end"]
SIZES = [60, 5_000, 70_000, 700_000, LARGEST]
STEPS = st.tuples(st.sampled_from(WHAT), st.sampled_from(SIZES))
TO_THE_END = [*[("read", 1 << 30), ("flush", 0)] * 10, ("send", 60), ("read", 1 << 30)]


class Schedule:
    """A sender, a relay that reads when told to, and the whole lines that it got."""

    def __init__(self, private: PrivateSocket) -> None:
        self.now = 0.0
        self.sender = Sender(private.path, max_wait=0, clock=lambda: self.now)
        self.emitted = 0
        self.lines: list[bytes] = []
        self._private = private
        self._incoming: ProducerConnection | None = None
        self._accepted = 0
        self._data = b""

    def take(self, step: str, value: int) -> None:
        self.now += 10  # longer than any pause between attempts to connect
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
        # A torn line at the end of a connection is the relay's to reject.
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
        for step, value in steps + TO_THE_END:
            schedule.take(step, value)
        schedule.end()
        schedule.sender.close()
    sender = schedule.sender
    assert sender.sent + sender.dropped == schedule.emitted
    told, present, unknown = check_gaps(schedule.lines)
    assert (told, unknown) == (schedule.emitted, False)
    stream = b"".join(schedule.lines)
    if b'"dropped": null' not in stream:
        assert present == sender.sent
    for kind in (b"producer_congested", b"relay_restarted", b'"dropped": null'):
        event(f"{kind.decode()}: {kind in stream}")
