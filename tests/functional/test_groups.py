# SPDX-License-Identifier: Apache-2.0
"""Groups of a running relay: shared records, redelivery, held places, restarts and limits."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.groups import group, join, numbers, request, wait_group
from support.other_user import OtherUser, open_relay
from support.records import numbered_record, record
from support.relay import Subscriber, running_relay
from support.relayctl import needs_root
from support.service_manager import ManagedRelay, managed_relay
from support.waiting import wait_until


@pytest.fixture
def relay(directory: Path) -> Iterator[ManagedRelay]:
    with managed_relay(directory) as relay:
        yield relay


def test_each_record_goes_to_one_member(relay: ManagedRelay) -> None:
    with relay.subscribe() as plain, join(relay) as one, join(relay) as two:
        with relay.produce() as producer:
            for number in range(6):
                producer.sendall(record(number=number))
                assert numbers(plain, 1) == [number]
        assert numbers(one, 3) == [0, 2, 4]
        assert numbers(two, 3) == [1, 3, 5]
        members = [each["group"] for each in relay.request("subscribers")]
        assert members == ["", "g", "g"]
        assert group(relay) | {"uid": 0} == {
            "group": "g",
            "uid": 0,
            "members": 2,
            "lag": 0,
            "unfinished": 0,
            "redelivered": 0,
            "dropped": 0,
            "hold_seconds": None,
        }
    wait_until(lambda: not relay.request("groups"), "the group ends with its last member")


def test_answer_states_what_is_in_force(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber:
        request(subscriber, filter={"priority": ["ERROR"]}, group="a/b", window=5, hold=0.5)
        answer = subscriber.notification()
        assert answer["event_type"] == "notif_relayd.subscribed"
        expected = {"priority": ["ERROR"], "group": "a/b", "window": 5, "hold": 0.5}
        since = answer["payload"].pop("group_since")
        assert answer["payload"] == expected
        request(subscriber, group="a/b")
        assert subscriber.notification()["payload"] == {"group": "a/b", "group_since": since}


def test_answer_tells_a_new_group_from_the_one_before(relay: ManagedRelay) -> None:
    def since(hold: int) -> str:
        with Subscriber(relay.public) as subscriber:
            request(subscriber, group="g", hold=hold)
            answer = subscriber.notification()
        wait_until(lambda: not relay.request("subscribers"), "the member has left")
        return str(answer["payload"]["group_since"])

    first, second = since(60), since(60)
    relay.restart()
    third, fourth = since(0), since(60)
    assert first == second == third != fourth


def test_records_finished_before_the_end_are_not_sent_again(relay: ManagedRelay) -> None:
    with relay.produce() as producer, join(relay, window=3, hold=60) as one:
        producer.sendall(b"".join(record(number=number) for number in range(3)))
        assert numbers(one, 3) == [0, 1, 2]
        relay.process.send_signal(signal.SIGSTOP)
        request(one, done=1)
        request(one, done=2)
        one.close()
        relay.process.send_signal(signal.SIGCONT)
        wait_group(relay, members=0, lag=1)


def test_unfinished_records_go_to_another_member(relay: ManagedRelay) -> None:
    with relay.produce() as producer, join(relay, window=3) as one:
        producer.sendall(b"".join(record(number=number) for number in range(5)))
        assert numbers(one, 3) == [0, 1, 2]
        wait_group(relay, unfinished=3, lag=2)
        request(one, done=1)
        assert numbers(one, 1) == [3]
        with join(relay, window=10) as two:
            assert numbers(two, 1) == [4]
            one.close()
            marker = two.notification()
            assert marker["event_type"] == "notif_relayd.redelivered"
            assert marker["payload"] == {"records": 3}
            assert numbers(two, 3) == [1, 2, 3]
            request(two, done=4)
            wait_group(relay, members=1, unfinished=0, lag=0, redelivered=3)


def test_few_records_are_divided_among_members_with_a_window(relay: ManagedRelay) -> None:
    some = {"filter": {"event_type": ["test.*"]}, "window": 100}
    with relay.produce() as producer, join(relay, **some) as one, join(relay, **some) as two:
        producer.sendall(b"".join(record(number=number) for number in range(8)))
        assert numbers(one, 4) == [0, 1, 2, 3]
        assert numbers(two, 2) == [4, 5]
        wait_group(relay, lag=0, unfinished=8)


def test_members_that_are_busy_get_a_batch_at_once(relay: ManagedRelay) -> None:
    with join(relay, window=50) as one, join(relay, window=50) as two:
        with relay.produce() as producer:
            producer.sendall(record() * 2)
            relay.wait_status(records_received=2)
            producer.sendall(b"".join(numbered_record(number) for number in range(9)))
            relay.wait_status(records_received=11)
        one.line()
        two.line()
        rows = relay.request("subscribers")
        assert sorted(each["records"] for each in rows) == [1, 10]


def test_members_with_filters_share_what_both_want(relay: ManagedRelay) -> None:
    only_a = {"event_type": ["a.*"]}
    with (
        relay.produce() as producer,
        join(relay, filter=only_a, window=1) as one,
        join(relay, filter={"event_type": ["*.x"]}, window=100) as two,
    ):
        for number, event_type in enumerate(["a.y", "a.y", "b.x", "b.y", "a.y"]):
            producer.sendall(record(event_type, number=number))
        assert numbers(one, 1) == [0]
        assert numbers(two, 1) == [2]
        for count, number in ((1, 1), (2, 4)):
            request(one, done=count)
            assert numbers(one, 1) == [number]
        wait_group(relay, lag=0, unfinished=2)


def test_a_stalled_member_does_not_hold_up_others(relay: ManagedRelay) -> None:
    with relay.produce() as producer, join(relay) as stalled, join(relay) as reading:
        total = 4000
        for number in range(total):
            producer.sendall(numbered_record(number))
        received = 0
        # The socket of the stalled member is full, so the others get all that is left.
        while lag := group(relay)["lag"]:
            received += len(numbers(reading, lag))
        relay.wait_status(records_received=total)
        (one, two) = sorted(each["records"] for each in relay.request("subscribers"))
        received += len(numbers(reading, two - received))
        assert 0 < one < two
        # The stalled member keeps what its socket took, and the rest of at most one record.
        assert total - 1 <= received + one <= total
        stalled.close()
        if received + one < total:
            numbers(reading, 1)


def test_a_record_is_lost_if_a_member_leaves_and_ends_within_it(relay: ManagedRelay) -> None:
    with relay.produce() as producer, join(relay) as one:
        producer.sendall(record(payload="x" * 900_000))
        relay.wait_status(records_received=1)
        with join(relay) as two:
            request(one, group="other")
            wait_until(lambda: len(relay.request("groups")) == 2, "the first member has left")
            one.close()
            assert two.notification()["payload"] == {"dropped": 1, "reason": "slow_subscriber"}
            wait_group(relay, dropped=1)


def test_a_group_is_held_without_members(relay: ManagedRelay) -> None:
    with relay.produce() as producer:
        with join(relay, window=2, hold=100) as one:
            producer.sendall(b"".join(record(number=number) for number in range(3)))
            assert numbers(one, 2) == [0, 1]
            request(one, done=1)
            assert numbers(one, 1) == [2]
        wait_group(relay, members=0, lag=2, unfinished=0)
        assert 0 < group(relay)["hold_seconds"] <= 100
        producer.sendall(record(number=3))
        wait_group(relay, lag=3)
        with join(relay, window=10, hold=0.01) as two:
            assert two.notification()["payload"] == {"records": 2}
            assert numbers(two, 3) == [1, 2, 3]
            assert group(relay)["hold_seconds"] is None
        wait_until(lambda: not relay.request("groups"), "the hold is over")


def test_a_held_group_announces_what_left_the_ring(directory: Path) -> None:
    config = directory / "relayd.conf"
    config.write_text("[relayd]\nring_size = 65536\nmax_record_size = 65536\n")
    with running_relay(directory, "--config-file", str(config)) as relay, relay.produce() as p:
        join(relay, hold=100).close()
        wait_group(relay, members=0)
        for number in range(200):
            p.sendall(numbered_record(number))
        relay.wait_status(records_received=200)
        with join(relay, window=1, hold=100) as member:
            gap = member.notification()
            dropped = gap["payload"]["dropped"]
            assert gap["payload"] == {"dropped": dropped, "reason": "slow_subscriber"}
            assert 100 < dropped < 200
            wait_group(relay, unfinished=1)
        wait_group(relay, members=0, unfinished=0)
        with join(relay, window=1, hold=100) as member:
            assert member.notification()["message_id"] == gap["message_id"]  # it was not finished
            request(member, done=1)
            assert numbers(member, 1) == [dropped]
            request(member, done=2)
            assert numbers(member, 1) == [dropped + 1]
        with join(relay) as member:
            assert member.notification()["payload"] == {"records": 1}
            assert numbers(member, 199 - dropped) == list(range(dropped + 1, 200))
        assert relay.status()["records_dropped"] == dropped


def test_a_record_that_nobody_finishes_is_given_up(directory: Path) -> None:
    config = directory / "relayd.conf"
    config.write_text("[relayd]\nmax_deliveries = 3\n")
    with running_relay(directory, "--config-file", str(config)) as relay, relay.produce() as p:
        join(relay, hold=100).close()
        wait_group(relay, members=0)
        for number, event_type in enumerate(["good", "poison", "good"]):
            p.sendall(record(event_type, number=number, message_id="m"))
        wait_group(relay, lag=3)
        for _ in range(3):
            with join(relay, window=10, hold=100) as worker:
                done = 0
                while True:
                    notification = worker.notification()
                    if notification["event_type"] == "poison":
                        break
                    if notification["event_type"] == "good":
                        done += 1
                        request(worker, done=done)
                        number = notification["number"]
            wait_group(relay, members=0, unfinished=0)
        relay.wait_logged("event_type poison, publisher_id None, message_id m")
        with join(relay, window=10) as worker:
            gap = worker.notification()
            assert gap["payload"] == {"dropped": 1, "reason": "undeliverable"}
            request(worker, done=1)
            if number != 2:
                notification = worker.notification()
                assert notification["event_type"] in ("notif_relayd.redelivered", "good")


def nested(key: str, depth: int) -> str:
    """Return a field with nested lists."""
    return f'"{key}": {"[" * depth}{"]" * depth}'


@pytest.mark.parametrize(
    "fields",
    [
        # The validator and Python's decoder permit different depths.
        [nested("payload", depth) for depth in range(1000, 900, -5)],
        [nested("message_id", depth) for depth in range(1000, 900, -5)],
        [f'"message_id": "{"x" * 300_000}"'],
        [f'"message_id": {"9" * 5000}'],
    ],
    ids=["deep payload", "deep name", "long name", "many digits"],
)
def test_records_that_are_hard_to_name_are_given_up(directory: Path, fields: list[str]) -> None:
    config = directory / "relayd.conf"
    config.write_text("[relayd]\nmax_deliveries = 1\n")
    lines = [f'{{"event_type": "bad", "priority": "INFO", {each}}}\n'.encode() for each in fields]
    with running_relay(directory, "--config-file", str(config)) as relay, relay.produce() as p:
        with join(relay, window=100, hold=100) as worker:
            p.sendall(b"".join(lines) + record(number=1))
            received = 1
            while worker.line() != record(number=1):
                received += 1
        wait_group(relay, members=0, dropped=received)
        assert received > 1
        relay.wait_logged("record(s) not delivered again: group g of uid")
        assert relay.log.stat().st_size < 5000


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"group": "a b"}, "not a name of 1 to 64 characters"),
        ({"group": ""}, "not a name of 1 to 64 characters"),
        ({"group": "x" * 65}, "not a name of 1 to 64 characters"),
        ({"group": 1}, "not a name of 1 to 64 characters"),
        ({"group": "g", "window": 0}, '"window" is not an integer from 1 to 65536'),
        ({"group": "g", "window": 65537}, '"window" is not an integer from 1 to 65536'),
        ({"group": "g", "window": 1.5}, '"window" is not an integer from 1 to 65536'),
        ({"group": "g", "window": True}, '"window" is not an integer from 1 to 65536'),
        ({"group": "g", "window": None}, '"window" is not an integer from 1 to 65536'),
        ({"group": "g", "hold": -1}, '"hold" is not a number of seconds'),
        ({"group": "g", "hold": 10**400}, '"hold" is not a number of seconds'),
        ({"group": "g", "hold": "1"}, '"hold" is not a number of seconds'),
        (
            {"group": "g", "hold": 300.5},
            '"hold" is 300.5 seconds; the limit is max_hold = 300 seconds',
        ),
        ({"filter": {}, "window": 1}, '"window" requires the key "group"'),
        ({"filter": {}, "hold": 1}, '"hold" requires the key "group"'),
        ({"group": "g", "done": 1}, '"group" is not a key of a request with "done"'),
        (
            {"group": "g", "windows": 1},
            "Unknown key 'windows' in the request; the keys are filter,",
        ),
        ({"done": 0}, '"done" requires a group and a "window"'),
        ({"done": -1}, '"done" is not an integer that is 0 or greater'),
        ({"done": 1, "group_since": 5}, '"group_since" is not that of an answer'),
        ({"done": 10**30}, '"done" requires a group and a "window"'),
        ({"done": "1"}, '"done" is not an integer that is 0 or greater'),
    ],
)
def test_invalid_requests_are_refused(
    relay: ManagedRelay, keys: dict[str, object], error: str
) -> None:
    with relay.subscribe() as subscriber:
        request(subscriber, **keys)
        answer = subscriber.notification()
        assert answer["event_type"] == "notif_relayd.error"
        assert error in answer["payload"]
        assert subscriber.line() == b""
    wait_until(lambda: not relay.request("groups"), "no group is left")


@pytest.mark.parametrize(
    ("counts", "error"),
    [
        ([3], '"done" is 3, but the number of records sent since the answer is 2'),
        ([2, 1], '"done" is 1, but it was 2 before'),
        ([10**30], "sent since the answer"),
    ],
)
def test_wrong_counts_are_refused(relay: ManagedRelay, counts: list[int], error: str) -> None:
    with relay.produce() as producer, join(relay, window=5, hold=100) as member:
        producer.sendall(record(number=0) + record(number=1))
        assert numbers(member, 2) == [0, 1]
        for count in counts:
            request(member, done=count)
        answer = member.notification()
        assert answer["event_type"] == "notif_relayd.error"
        assert error in answer["payload"]
        assert member.line() == b""
    left = 0 if counts[0] == 2 else 2
    wait_group(relay, members=0, lag=left)


@needs_root
def test_groups_of_different_users_are_separate(directory: Path) -> None:
    with open_relay(directory) as relay, OtherUser(relay.public, 1234) as other:
        other.write(b'{"group": "g"}\n')
        assert b"notif_relayd.subscribed" in other.line()
        with join(relay) as own, relay.produce() as producer:
            producer.sendall(record(number=0) + record(number=1))
            assert numbers(own, 2) == [0, 1]
            assert [json.loads(other.line())["number"] for _ in range(2)] == [0, 1]
            assert [each["uid"] for each in relay.request("groups")] == [1234, 0]


def test_groups_of_one_user_are_limited(directory: Path) -> None:
    config = directory / "relayd.conf"
    config.write_text("[relayd]\nmax_groups_per_user = 2\n")
    with running_relay(directory, "--config-file", str(config)) as relay:
        join(relay, group="1", hold=100).close()
        with (
            join(relay, group="2", window=65536),
            relay.subscribe() as third,
            relay.subscribe() as other,
        ):
            request(third, group="3")
            assert "max_groups_per_user = 2" in third.notification()["payload"]
            request(other, group="2", window=65536)
            assert "a window takes 120 bytes for each record" in other.notification()["payload"]
            with join(relay, group="1"):
                pass
