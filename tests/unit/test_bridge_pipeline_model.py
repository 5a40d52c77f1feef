# SPDX-License-Identifier: Apache-2.0
"""The pipeline of a bridge against a model of the relay, the broker and the spool."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from notif_relay import Notification
from notif_relayd_bridge.outbound.attempts import RETRY_INTERVAL
from notif_relayd_bridge.outbound.pipeline import SLOW_AFTER, Pipeline
from support.memory_spool import MemorySpool

MAX_UNCONFIRMED = 4


class Relay:
    """The relay's group: sends again what a member did not finish."""

    def __init__(self) -> None:
        self.emitted = 0
        self.delivered = 0
        """Number of deliveries, those of redelivered notifications included."""
        self.unfinished: dict[int, bytes] = {}
        self.finished_now: set[int] = set()
        """The numbers that were finished since they were checked last."""
        self._session = 0

    def emit(self, count: int, skipped: bool) -> list[Notification]:
        numbers = range(self.emitted, self.emitted + count)
        self.emitted += count
        for number in numbers:
            record = {"number": number, **({"_bridge": "hub"} if skipped else {})}
            self.unfinished[number] = json.dumps(record).encode() + b"\n"
        return [self._notification(number) for number in numbers]

    def redeliver(self) -> list[Notification]:
        """Return the notifications of a new connection; those of the previous one are void."""
        self._session += 1
        return [self._notification(number) for number in self.unfinished]

    def _notification(self, number: int) -> Notification:
        self.delivered += 1
        notification = Notification(self.unfinished[number])
        session = self._session

        def finish(number: int) -> None:
            if session == self._session and self.unfinished.pop(number, None) is not None:
                self.finished_now.add(number)

        notification.attach(finish, number)
        return notification


class Broker:
    """A target and its broker."""

    max_unconfirmed = MAX_UNCONFIRMED

    def __init__(self) -> None:
        self.connected = False
        self.unconfirmed: deque[bytes] = deque()
        self.stored: list[bytes] = []
        self.unannounced: deque[list[int]] = deque()
        """The numbers of each refused message that no confirmed gap record counts."""
        self.refused: set[int] = set()
        """The numbers of the refused messages that a confirmed gap record counts."""

    def send(self, notification: Notification) -> None:
        assert self.connected
        self.unconfirmed.append(notification.raw)
        assert len(self.unconfirmed) <= MAX_UNCONFIRMED

    def store(self, count: int) -> None:
        """Store the oldest unconfirmed messages."""
        self.stored += list(self.unconfirmed)[:count]

    def confirm(self, count: int) -> None:
        self.store(count)
        for _ in range(count):
            self._answer_gap(self.unconfirmed.popleft())

    def refuse(self) -> None:
        record = self.unconfirmed.popleft()
        # A gap record that is refused is not announced by another one.
        if not self._answer_gap(record):
            self.unannounced.append(numbers(record))

    def fail(self) -> None:
        self.connected = False
        self.unconfirmed.clear()
        self.unannounced.clear()  # They are sent again.

    def _answer_gap(self, record: bytes) -> bool:
        if b'"undeliverable"' not in record:
            return False
        for _ in range(json.loads(record)["payload"]["dropped"]):
            self.refused |= set(self.unannounced.popleft())
        return True


def numbers(record: bytes) -> list[int]:
    """Return the number of a record, or those that a gap of the spool counts."""
    fields = json.loads(record)
    if "number" in fields:
        return [fields["number"]]
    return [each["number"] for each in fields.get("lost", ())]


class PipelineMachine(RuleBasedStateMachine):
    """Every record is delivered, or counted in a gap; and finished only after that."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.relay = Relay()
        self.broker = Broker()
        self.skipped: set[int] = set()
        self.ever_refused: set[int] = set()
        self.has_failed = False
        """Whether messages may have been sent twice."""

    @initialize(max_rows=st.sampled_from([3, 8, 1000]))
    def start(self, max_rows: int) -> None:
        self.spool = MemorySpool(max_rows)
        self.pipeline = self.new_pipeline()

    def new_pipeline(self) -> Pipeline:
        return Pipeline(self.broker, self.spool, lambda: self.now)

    @rule(count=st.integers(1, 10), skipped=st.integers(0, 4))
    def emit(self, count: int, skipped: int) -> None:
        before = self.relay.emitted
        self.pipeline.receive(self.relay.emit(count, skipped == 4))
        if skipped == 4:
            self.skipped |= set(range(before, self.relay.emitted))

    @rule()
    def relay_restarts(self) -> None:
        self.has_failed = True
        self.pipeline.receive(self.relay.redeliver())

    @precondition(lambda self: not self.broker.connected)
    @rule(advances=st.booleans())
    def connect(self, advances: bool) -> None:
        self.broker.connected = True
        self.pipeline.connect()
        if advances:
            self.advance()

    @precondition(lambda self: self.broker.unconfirmed)
    @rule(data=st.data(), advances=st.booleans())
    def confirm(self, data: st.DataObject, advances: bool) -> None:
        self.confirm_oldest(data.draw(st.integers(1, len(self.broker.unconfirmed))))
        if advances:
            self.advance()

    def confirm_oldest(self, count: int) -> None:
        self.broker.confirm(count)
        self.pipeline.confirm(count)

    @precondition(lambda self: self.broker.unconfirmed)
    @rule(confirmed=st.integers(0, MAX_UNCONFIRMED))
    def refuse(self, confirmed: int) -> None:
        self.ever_refused |= set(numbers(self.broker.unconfirmed[0]))
        self.broker.refuse()
        self.pipeline.refuse("too large")
        if self.broker.unconfirmed and confirmed:
            self.confirm_oldest(min(confirmed, len(self.broker.unconfirmed)))

    @precondition(lambda self: self.broker.connected)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.broker.store(data.draw(st.integers(0, len(self.broker.unconfirmed))))
        self.disconnect()
        self.pipeline.fail("connection reset")
        self.advance()

    def disconnect(self) -> None:
        # Confirmed rows after one that was refused are sent again, too.
        self.has_failed |= bool(self.broker.unconfirmed or self.broker.unannounced)
        self.broker.fail()

    @precondition(lambda self: not self.broker.connected)
    @rule()
    def fail_again(self) -> None:
        self.pipeline.fail("connection refused")

    @rule(data=st.data(), stops=st.booleans())
    def restart(self, data: st.DataObject, stops: bool) -> None:
        if stops:
            self.pipeline.stop()
            self.advance()
        self.broker.store(data.draw(st.integers(0, len(self.broker.unconfirmed))))
        self.has_failed = True
        self.disconnect()
        self.pipeline = self.new_pipeline()
        self.pipeline.receive(self.relay.redeliver())

    @rule(broken=st.booleans())
    def change_spool(self, broken: bool) -> None:
        self.spool.broken = broken

    @rule(seconds=st.sampled_from([0.1, SLOW_AFTER, RETRY_INTERVAL]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def advance(self) -> None:
        self.pipeline.advance()
        deadline = self.pipeline.deadline
        assert deadline is None or deadline > self.now

    @invariant()
    def nothing_is_finished_too_early(self) -> None:
        self.relay.finished_now -= self.safe()
        assert not self.relay.finished_now

    def safe(self) -> set[int]:
        """Return the numbers that need not be in the relay."""
        stored = {each for record in self.broker.stored for each in numbers(record)}
        spooled = {
            each for rows in self.spool.rows.values() for raw in rows for each in numbers(raw)
        }
        return stored | spooled | self.skipped | self.broker.refused

    @invariant()
    def every_record_is_somewhere(self) -> None:
        assert set(range(self.relay.emitted)) <= self.safe() | self.relay.unfinished.keys()

    @invariant()
    def order_is_kept(self) -> None:
        seen: set[int] = set()
        first_times = [
            each
            for record in self.broker.stored
            for each in numbers(record)
            if each not in seen | self.ever_refused and not seen.add(each)  # type: ignore[func-returns-value]
        ]
        assert first_times == sorted(first_times)

    def teardown(self) -> None:
        """Let everything work again, and compare the books."""
        if not hasattr(self, "pipeline"):
            return
        self.spool.broken = False
        if not self.broker.connected:
            self.connect(advances=False)
        self.now += RETRY_INTERVAL
        self.advance()
        for _ in self.until_idle():
            self.confirm_oldest(len(self.broker.unconfirmed))
            self.advance()
        assert not self.relay.unfinished
        self.nothing_is_finished_too_early()
        self.every_record_is_somewhere()
        self.order_is_kept()
        self.gaps_are_exact()

    def until_idle(self) -> Iterator[None]:
        for _ in range(self.relay.delivered * 3 + 10):
            if self.pipeline.idle:
                return
            yield
        raise AssertionError("the pipeline does not become idle")

    def gaps_are_exact(self) -> None:
        """Check that gaps count nothing that was delivered, unless it was sent twice."""
        assert not self.broker.unannounced
        if not self.has_failed:
            found = [each for record in self.broker.stored for each in numbers(record)]
            assert len(found) == len(set(found))
            assert not set(found) & self.broker.refused


TestPipeline = PipelineMachine.TestCase
TestPipeline.settings = settings(max_examples=300, stateful_step_count=40)
