# SPDX-License-Identifier: Apache-2.0
"""relayctl metrics with a real relay, without a relay, and with a fake one."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from notif_relay import records
from notif_relay.version import __version__
from support.groups import join, request
from support.prometheus import Samples, needs_promtool, promtool, samples
from support.records import record
from support.relay import RunningRelay, connect, running_relay
from support.relayctl import answer_once, assert_error, needs_root, relayctl, relayctl_as_nobody
from support.service_manager import managed_relay
from support.waiting import TIMEOUT, wait_until

PREFIX = "notif_relayd_"


def metrics(relay: RunningRelay, *arguments: str) -> str:
    done = relayctl(relay.directory, "metrics", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def figures(relay: RunningRelay, *arguments: str) -> Samples:
    """Return all samples; the names are without the common prefix."""
    return {
        (name.removeprefix(PREFIX), *labels): value
        for (name, *labels), value in samples(metrics(relay, *arguments)).items()
    }


def test_input_and_output_are_counted(relay: RunningRelay) -> None:
    with relay.produce() as producer:
        producer.sendall(record() * 2)
        relay.wait_status(records_discarded=2)
        with relay.subscribe() as one, relay.subscribe() as other:
            producer.sendall(record() * 3 + b"garbage\n\n" + b"half")
            for each in (one, other):
                each.lines(3)
            relay.wait_status(records_rejected=2)
            found = figures(relay)
    sent = 5 * len(record()) + len(b"garbage\n\nhalf")
    assert found["up",] == 1
    assert found["build_info", platform.python_version(), __version__] == 1
    assert found["producers",] == 1
    assert found["subscribers",] == 2
    assert found["subscribers_behind",] == 0
    assert found["records_received_total",] == 5
    assert found["bytes_received_total",] == sent
    assert found["records_delivered_total",] == 6
    assert found["bytes_delivered_total",] == 6 * len(record())
    assert found["records_discarded_total",] == 2
    assert found["records_rejected_total", "not_json"] == 1
    assert found["records_rejected_total", "empty"] == 1
    assert found["records_rejected_total", "torn"] == 0
    assert found["connections_accepted_total", "ingest"] == 1
    assert found["connections_accepted_total", "public"] == 2
    assert found["ring_bytes",] == 0
    assert found["ring_limit_bytes",] == relay.status()["ring_limit_bytes"]


def test_slow_subscriber_is_counted(directory: Path) -> None:
    sent = 2000
    with (
        running_relay(directory, "--relayd-ring_size", str(1024 * 1024)) as relay,
        relay.subscribe(),
        relay.produce() as producer,
    ):
        for _ in range(sent):
            producer.sendall(record(payload="x" * 1000))
        relay.wait_status(records_received=sent)
        found = figures(relay)
        (status,) = relay.request("subscribers")
    assert found["subscribers_behind",] == 1
    assert found["max_lag_records",] == status["lag"] > 0
    assert found["records_dropped_total", "slow_subscriber"] == status["dropped"] > 0
    assert 900_000 < found["ring_bytes",] <= found["ring_limit_bytes",] == 1024 * 1024


def test_groups_are_counted(directory: Path) -> None:
    with (
        running_relay(directory, "--relayd-max_deliveries", "2") as relay,
        relay.produce() as producer,
    ):
        join(relay, group="held", hold=100).close()
        with join(relay, window=2, hold=100) as one, join(relay, window=1, hold=100) as two:
            producer.sendall(record() * 4)
            relay.wait_status(records_received=4)
            one.lines(2)
            two.lines(1)
            relay.wait_status(subscribers=2)
            found = figures(relay)
            assert found["groups",] == 2
            assert found["groups_held",] == 1
            assert found["groups_members",] == 2
            assert found["groups_max_lag_records",] == 4
            assert found["groups_unfinished_records",] == 3
            assert found["groups_held_ring_bytes",] == found["ring_bytes",] > 4 * len(record())
            one.close()
            relay.wait_status(subscribers=1)
            request(two, done=1)
            assert b"redelivered" in two.line()
            two.line()
        relay.wait_status(subscribers=0)
        found = figures(relay)
    assert found["groups_held",] == 2
    assert found["groups_members",] == found["groups_unfinished_records",] == 0
    assert found["groups_records_redelivered_total",] == 1
    assert found["groups_records_dropped_total",] == 1
    assert found["records_dropped_total", "undeliverable"] == 1
    assert found["records_dropped_total", "slow_subscriber"] == 0


def test_ring_of_held_groups_is_measured_from_their_place(relay: RunningRelay) -> None:
    with relay.subscribe(), relay.produce() as producer:
        sent = 1000
        for _ in range(sent):
            producer.sendall(record(payload="x" * 1000))
        relay.wait_status(records_received=sent)
        join(relay, hold=100).close()
        relay.wait_status(subscribers=1)
        before = figures(relay)
        producer.sendall(record())
        relay.wait_status(records_received=sent + 1)
        after = figures(relay)
    assert before["ring_bytes",] > 500_000
    assert before["groups_held_ring_bytes",] == 0
    added = after["ring_bytes",] - before["ring_bytes",]
    assert after["groups_held_ring_bytes",] == added > len(record())


def test_producers_drops_are_counted_by_reason(relay: RunningRelay) -> None:
    with relay.produce() as producer:
        producer.sendall(records.gap(3, "producer_congested") + record())
        producer.sendall(records.gap(4, "relay_restarted"))
        producer.sendall(records.gap(None, "producer_congested"))
        producer.sendall(records.gap(5, "producer_congested"))
        relay.wait_status(records_received=5)
        found = figures(relay)
    assert found["records_dropped_total", "relay_restarted"] == 4
    assert found["records_dropped_total", "slow_subscriber"] == 0
    assert found["records_dropped_total", "producer_congested"] == 8
    assert found["unknown_gaps_total", "producer_congested"] == 1
    assert found["unknown_gaps_total", "relay_restarted"] == 0


def test_refused_and_repeated_connections_are_counted(directory: Path) -> None:
    with (
        running_relay(directory, "--relayd-max_subscribers", "1") as relay,
        relay.subscribe() as first,
    ):
        with connect(relay.public) as refused:
            assert b"max_subscribers" in refused.recv(65536)
        first.close()
        relay.wait_status(subscribers=0)
        with relay.subscribe():
            found = figures(relay)
    assert found["connections_refused_total", "full", "public"] == 1
    assert sum(value for key, value in found.items() if "connections_refused" in key[0]) == 1
    assert found["connections_accepted_total", "public"] == 2
    assert found["reconnects_total", "public"] == 1
    assert found["reconnects_total", "ingest"] == 0


def test_each_loop_iteration_is_in_the_histogram(relay: RunningRelay) -> None:
    name = "turn_duration_seconds"
    with relay.subscribe() as subscriber, relay.produce() as producer:
        before = figures(relay)
        for _ in range(10):
            producer.sendall(record())
            subscriber.line()
        after = figures(relay)
    assert after[f"{name}_count",] >= before[f"{name}_count",] + 10
    assert after[f"{name}_sum",] > before[f"{name}_sum",]
    buckets = [value for key, value in after.items() if key[0] == f"{name}_bucket"]
    assert len(buckets) == 16
    assert buckets == sorted(buckets)
    assert buckets[-1] == after[f"{name}_count",]


def test_counters_survive_a_restart_but_not_a_crash(directory: Path) -> None:
    with (
        managed_relay(directory) as relay,
        relay.subscribe() as subscriber,
        relay.produce() as producer,
    ):
        producer.sendall(b"garbage\n" + records.gap(3, "producer_congested"))
        subscriber.line()
        with join(relay, window=1) as one, join(relay, window=1) as two:
            producer.sendall(record())
            one.line()
            one.close()
            two.lines(2)
        relay.wait_status(subscribers=1)
        before = figures(relay)
        assert before["groups_records_redelivered_total",] == 1
        relay.restart()
        after = figures(relay)
        relay.kill()
        crashed = figures(relay)
    kept = {key for key in before if key[0] == "connections_kept_total"}
    for key, value in before.items():
        if key[0].endswith("_total") and key not in kept:
            assert after[key] == value, key
    assert after["turn_duration_seconds_count",] > before["turn_duration_seconds_count",]
    assert {key[1]: after[key] for key in kept} == {"public": 1, "ingest": 1}
    assert crashed["records_dropped_total", "producer_congested"] == 0
    assert crashed["unknown_gaps_total", "relay_restarted"] == 1
    assert {key[1]: crashed[key] for key in kept} == {"public": 1, "ingest": 1}


def test_per_connection_series_are_optional(
    relay: RunningRelay,
) -> None:
    before = figures(relay).keys()
    with relay.subscribe() as subscriber, join(relay), relay.produce() as producer:
        producer.sendall(record("a.type.of.event") * 3 + b"garbage\n")
        relay.wait_status(records_rejected=1)
        subscriber.lines(3)
        assert figures(relay).keys() == before
        found = figures(relay, "--per-connection")
    pid, command = str(os.getpid()), Path("/proc/self/comm").read_text().strip()
    # The labels are in the order of their names.
    assert found["producer_records_received_total", command, "3", pid] == 3
    assert found["producer_records_rejected_total", command, "3", pid] == 1
    assert found["producer_bytes_received_total", command, "3", pid] > 3 * len(record())
    for number in ("1", "2"):
        assert found["subscriber_records_delivered_total", command, number, pid] == 3
        assert found["subscriber_bytes_delivered_total", command, number, pid] > 0
        assert found["subscriber_records_dropped_total", command, number, pid] == 0
        assert found["subscriber_lag_records", command, number, pid] == 0
    for name in ("members", "lag_records", "unfinished_records"):
        assert found[f"group_{name}", "g", str(os.getuid())] == (name == "members")
    assert len(found.keys() - before) == 3 + 2 * 4 + 5


def test_process_name_is_escaped(relay: RunningRelay) -> None:
    program = (
        "import socket, sys; open('/proc/self/comm', 'wb').write(b'\\x1b\"\\n\\\\');"
        "peer = socket.socket(socket.AF_UNIX); peer.connect(sys.argv[1]); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, os.fspath(relay.ingest)], stdin=subprocess.PIPE
    ) as process:
        relay.wait_status(producers=1)
        text = metrics(relay, "--per-connection")
        process.communicate()
    commands = {key[1] for key in samples(text) if key[0].startswith(f"{PREFIX}producer_")}
    assert commands == {'\\u001b"\\n\\'}
    assert "\x1b" not in text


@needs_promtool
def test_promtool_accepts_the_metrics(relay: RunningRelay) -> None:
    with relay.subscribe(), relay.produce():
        relay.wait_status(producers=1)
        text = metrics(relay, "--per-connection")
    assert promtool("check", "metrics", stdin=text) == ""


def test_missing_relay_is_an_error(directory: Path) -> None:
    done = relayctl(directory, "metrics")
    assert_error(done, 3, "the daemon is not running")
    assert done.stdout == ""


@needs_root
def test_denied_permission_is_an_error(relay: RunningRelay) -> None:
    relay.directory.chmod(0o755)
    assert_error(relayctl_as_nobody(relay.directory, "metrics"), 4, os.fspath(relay.control))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b'{"error": "there is no method \'metrics\'; there are status"}', "another version"),
        (b'{"result": {"version": "0.0.1"}}', "another version"),
        (b'{"result": 7}', "cannot decode"),
        (b"garbage", "cannot decode"),
        (b"", "cannot decode"),
    ],
)
def test_invalid_answer_is_a_one_line_error(directory: Path, answer: bytes, error: str) -> None:
    with answer_once(directory / "control.sock", answer + b"\n"):
        assert_error(relayctl(directory, "metrics"), 1, error)


def test_unknown_fields_of_a_newer_relay_are_ignored(relay: RunningRelay) -> None:
    answer = relay.request_raw({"method": "metrics"})
    answer["result"]["more"] = answer["result"]["status"]["more"] = {"to": "tell"}
    elsewhere = relay.directory / "elsewhere"
    elsewhere.mkdir()
    with answer_once(elsewhere / "control.sock", json.dumps(answer).encode() + b"\n"):
        assert relayctl(elsewhere, "metrics").returncode == 0


def test_output_file_is_replaced_atomically(relay: RunningRelay) -> None:
    """A reader always finds a complete file, readable for all users."""
    target = relay.directory / "relay.prom"
    target.write_text(metrics(relay))
    last_names = set()
    stop = threading.Event()

    def read_repeatedly() -> None:
        while not stop.is_set():
            last_names.add(target.read_text().splitlines()[-1].split()[0])

    reader = threading.Thread(target=read_repeatedly)
    reader.start()
    for _ in range(3):
        assert metrics(relay, "--output", os.fspath(target)) == ""
    stop.set()
    reader.join(TIMEOUT)
    assert last_names == {f"{PREFIX}turn_duration_seconds_sum"}
    assert target.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in relay.directory.glob("relay.prom*")] == ["relay.prom"]


def test_output_is_printed_for_a_hyphen(relay: RunningRelay) -> None:
    assert f"{PREFIX}up 1.0" in metrics(relay, "--output", "-")
    null = relay.directory / "null"
    null.symlink_to(os.devnull)
    assert metrics(relay, "--output", os.fspath(null)) == ""
    assert null.is_char_device()


def test_output_file_reports_a_missing_relay(directory: Path) -> None:
    target = directory / "relay.prom"
    done = relayctl(directory, "metrics", "-o", os.fspath(target))
    assert_error(done, 3, "the daemon is not running")
    assert samples(target.read_text()) == {(f"{PREFIX}up",): 0}


def test_unwritable_output_file_is_a_one_line_error(relay: RunningRelay) -> None:
    path = relay.directory / "missing" / "relay.prom"
    done = relayctl(relay.directory, "metrics", "-o", os.fspath(path))
    assert_error(done, 1, f"{path}: No such file or directory")
    wait_until(lambda: relay.status()["pid"] == relay.process.pid, "the relay still answers")
