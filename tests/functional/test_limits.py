# SPDX-License-Identifier: Apache-2.0
"""Limits per user, lists of permitted users and groups, and access rules."""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import pwd
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from notif_relayd.access.admission import BURST_SECONDS
from notif_relayd.peer import peer_of
from support.other_user import OtherUser, open_relay
from support.records import record
from support.relay import RunningRelay, Subscriber, connect, run_daemon, running_relay
from support.relayctl import needs_root
from support.service_manager import ManagedRelay, managed_relay
from support.waiting import wait_until

SO_PEERGROUPS = 59
"""asm-generic/socket.h; Python has no name for this option."""


def refusal(line: bytes) -> str:
    notification = json.loads(line)
    assert notification["event_type"] == "notif_relayd.error"
    return str(notification["payload"])


def test_refusal_names_max_connections_per_user(directory: Path) -> None:
    with (
        running_relay(directory, "--relayd-max_connections_per_user", "2") as relay,
        relay.subscribe(),
        relay.subscribe() as second,
    ):
        with Subscriber(relay.public) as third:
            sentence = refusal(third.line())
            assert sentence == (
                "This relay takes no more subscribers: "
                f"uid {os.getuid()} has reached max_connections_per_user = 2."
            )
            assert third.read_to_end() == b""
        relay.wait_logged("max_connections_per_user = 2")
        assert re.search(
            rf"connection to {relay.public} refused: pid {os.getpid()} \(.*, uid {os.getuid()}\): "
            "uid .* has reached max_connections_per_user = 2",
            relay.log.read_text(),
        )
        second.close()
        relay.wait_status(subscribers=1)
        with relay.subscribe():
            pass


def test_producers_and_subscribers_are_counted_separately(directory: Path) -> None:
    with (
        running_relay(directory, "--relayd-max_connections_per_user", "1") as relay,
        relay.subscribe() as subscriber,
        relay.produce() as producer,
    ):
        producer.sendall(record())
        assert subscriber.line() == record()
        with relay.produce() as another:
            answer = refusal(another.makefile("rb").readline())
            assert answer.startswith(f"This relay takes no more producers: uid {os.getuid()} has")
        relay.wait_status(producers=1)


def test_connection_rate_is_limited_per_socket(
    directory: Path,
) -> None:
    with running_relay(directory, "--relayd-max_connection_rate", "1") as relay:
        for _ in range(int(2 * BURST_SECONDS)):
            connect(relay.public).close()
        with Subscriber(relay.public) as refused:
            assert "max_connection_rate = 1 connections per second" in refusal(refused.line())
        with relay.produce() as producer:
            producer.sendall(record())
            relay.wait_status(records_received=1)


@needs_root
def test_limits_apply_to_each_user_separately(directory: Path) -> None:
    with (
        open_relay(directory, "--relayd-max_connections_per_user", "1") as relay,
        OtherUser(relay.public, 1234),
        OtherUser(relay.public, 1235),
    ):
        relay.wait_status(subscribers=2)
        with OtherUser(relay.public, 1234) as again:
            assert "uid 1234 has" in refusal(again.line())


def test_reload_changes_limits(directory: Path) -> None:
    options = directory / "relayd.conf"
    options.write_text("[relayd]\nmax_connections_per_user = 1\n")
    with (
        running_relay(directory, "--config-file", str(options)) as relay,
        relay.subscribe(),
    ):
        options.write_text("[relayd]\nmax_connections_per_user = 2\n")
        relay.process.send_signal(1)
        wait_until(
            lambda: "configuration reloaded" in relay.log.read_text(),
            "the configuration is reloaded",
        )
        with relay.subscribe():
            pass


@needs_root
def test_only_listed_users_and_groups_may_connect(directory: Path) -> None:
    lists = ["--relayd-public_allow_users=nobody", "--relayd-public_allow_groups=games,mail"]
    with open_relay(directory, *lists) as relay, relay.subscribe():
        nobody, mail = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("mail").gr_gid
        with (
            OtherUser(relay.public, nobody),
            OtherUser(relay.public, 1234, mail),
            OtherUser(relay.public, 1234, 1234, 5000, mail),
            OtherUser(relay.ingest, 1234),
        ):
            relay.wait_status(subscribers=4, producers=1)
        with OtherUser(relay.public, 1234, 1234, 5000) as refused:
            assert "uid 1234 is not in public_allow_users" in refusal(refused.line())


@needs_root
def test_restart_disconnects_users_removed_from_the_list(directory: Path) -> None:
    directory.chmod(0o755)
    with managed_relay(directory, "--relayd-ingest_allow_users=nobody,daemon") as relay:
        relay.public.chmod(0o666)
        relay.ingest.chmod(0o666)
        with OtherUser(relay.ingest, 1), OtherUser(relay.ingest, 65534):
            relay.wait_status(producers=2)
            relay.set_arguments("--relayd-ingest_allow_users=nobody")
            relay.restart()
            assert [each["uid"] for each in relay.request("producers")] == [65534]
            wait_until(
                lambda: len(relay.stored) == 1, "the other connection is removed from the store"
            )


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--relayd-max_connections_per_user=0", "max_connections_per_user"),
        ("--relayd-max_connections_per_user=many", "max_connections_per_user"),
        ("--relayd-max_connection_rate=0", "max_connection_rate"),
        ("--relayd-max_connection_rate=nan", "max_connection_rate"),
        ("--relayd-public_allow_users=no-such-user", "public_allow_users"),
        ("--relayd-ingest_allow_groups=root,no-such-group", "ingest_allow_groups"),
        ("--relayd-access_rules=unheard-of", "access:unheard-of"),
    ],
)
def test_invalid_limit_is_an_error(directory: Path, option: str, named: str) -> None:
    done = run_daemon("--runtime-dir", str(directory), option)
    assert done.returncode == 1
    assert re.fullmatch(r"notif-relayd: [^\n]+\n", done.stderr)
    assert named in done.stderr


RULES = """
[relayd]
access_rules = first, Second
public_mode = 0666
ingest_mode = 0666
[access:first]
group = games
event_type = compute.*, volume.*
[access:Second]
group = mail
publisher_id = neutron*
"""

PAYLOAD_RULE = """
[relayd]
access_rules = project
public_mode = 0666
[access:project]
group = games
event_type = compute.*
payload = {"tenant_id": ["8d7a"],
    "secret": [{"exists": false}]}
"""


@pytest.fixture
def relay_with_rules(directory: Path) -> Iterator[ManagedRelay]:
    directory.chmod(0o755)
    rules = directory / "rules.conf"
    rules.write_text(RULES)
    with managed_relay(directory, "--config-file", str(rules)) as relay:
        yield relay


GAMES, MAIL = 60, 8


@needs_root
def test_subscribers_get_what_their_groups_rules_allow(relay_with_rules: ManagedRelay) -> None:
    with (
        relay_with_rules.subscribe() as root,
        OtherUser(relay_with_rules.public, 1234, 1234, GAMES) as first,
        OtherUser(relay_with_rules.public, 1235, MAIL) as second,
        OtherUser(relay_with_rules.public, 1236, GAMES, MAIL) as both,
        OtherUser(relay_with_rules.public, 1237) as none,
        relay_with_rules.produce() as producer,
    ):
        relay_with_rules.wait_status(subscribers=5)
        compute = record("compute.start", publisher_id="nova")
        port = record("port.start", publisher_id="neutron-1")
        other = record("image.start", publisher_id="glance")
        gap = record(
            "notif_relayd.gap", "WARN", payload={"dropped": 1, "reason": "producer_congested"}
        )
        producer.sendall(compute + port + other + gap)
        assert [root.line() for _ in range(4)] == [compute, port, other, gap]
        assert [first.line() for _ in range(2)] == [compute, gap]
        assert [second.line() for _ in range(2)] == [port, gap]
        assert [both.line() for _ in range(3)] == [compute, port, gap]
        assert none.line() == gap


@needs_root
def test_filter_cannot_exceed_the_access_rules(relay_with_rules: ManagedRelay) -> None:
    with (
        OtherUser(relay_with_rules.public, 1234, GAMES) as first,
        relay_with_rules.produce() as producer,
    ):
        first.write(b'{"filter": {"event_type": ["*.start"]}}\n{"filter": {}}\n')
        assert b"notif_relayd.subscribed" in first.line()
        assert b"notif_relayd.subscribed" in first.line()
        producer.sendall(record("port.end") + record("volume.end"))
        assert first.line() == record("volume.end")


@needs_root
def test_members_of_a_group_get_what_their_rules_allow(relay_with_rules: ManagedRelay) -> None:
    with (
        OtherUser(relay_with_rules.public, 1234, GAMES) as first,
        OtherUser(relay_with_rules.public, 1234, MAIL) as second,
        relay_with_rules.produce() as producer,
    ):
        for each in (first, second):
            each.write(b'{"group": "g"}\n')
            assert b"notif_relayd.subscribed" in each.line()
        compute, port = record("compute.start"), record("a", publisher_id="neutron-1")
        producer.sendall((port + compute) * 2)
        assert [first.line() for _ in range(2)] == [compute] * 2
        assert [second.line() for _ in range(2)] == [port] * 2


@needs_root
def test_rules_apply_after_a_restart_and_a_crash(relay_with_rules: ManagedRelay) -> None:
    with (
        OtherUser(relay_with_rules.public, 1234, GAMES) as first,
        relay_with_rules.produce() as producer,
    ):
        relay_with_rules.wait_status(subscribers=1, producers=1)
        relay_with_rules.restart()
        producer.sendall(record("port.end") + record("volume.end"))
        assert first.line() == record("volume.end")
        relay_with_rules.kill()
        producer.sendall(record("port.end") + record("volume.end"))
        assert first.line() == b"\n"
        assert b"notif_relayd.gap" in first.line()
        assert first.line() == record("volume.end")


@needs_root
def test_changed_rules_apply_to_restored_connections(relay_with_rules: ManagedRelay) -> None:
    with (
        OtherUser(relay_with_rules.public, 1234, GAMES) as first,
        relay_with_rules.produce() as producer,
    ):
        relay_with_rules.wait_status(subscribers=1, producers=1)
        rules = relay_with_rules.directory / "rules.conf"
        rules.write_text(RULES.replace("compute.*, volume.*", "port.*"))
        relay_with_rules.restart()
        producer.sendall(record("volume.end") + record("port.end"))
        assert first.line() == b"\n"
        assert b"notif_relayd.gap" in first.line()
        assert first.line() == record("port.end")


@pytest.mark.parametrize(
    ("wrong", "right", "sentence"),
    [
        ("group = games", "", "has no group"),
        ("group = games", "group = no-such-group", "the group 'no-such-group' does not exist"),
        ("event_type = compute.*", f"event_type = {'x' * 300}", "longer than 256"),
        ("event_type = compute.*, volume.*", "event_type =", "is not a list of one or more"),
        (
            "group = games",
            'group = games\npayload = {"a": "x"}',
            "payload path 'a' must have a list",
        ),
        ("group = games", "group = games\npayload = tenant", "payload in .*payload is not JSON"),
        ("group = games", "group = games\npayload =", "payload is not JSON"),
    ],
)
def test_invalid_rule_is_an_error(directory: Path, wrong: str, right: str, sentence: str) -> None:
    rules = directory / "rules.conf"
    rules.write_text(RULES.replace(wrong, right, 1))
    done = run_daemon("--runtime-dir", str(directory), "--config-file", str(rules))
    assert done.returncode == 1
    assert re.fullmatch(r"notif-relayd: [^\n]*access[^\n]*\n", done.stderr)
    assert re.search(sentence, done.stderr)


def test_reserved_event_types_are_rejected(relay: RunningRelay) -> None:
    gap = record("notif_relayd.gap", "WARN", payload={"dropped": 1, "reason": "producer_congested"})
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for event_type in ("notif_relayd.error", "notif_relayd.", "notif_relayd.gap2"):
            producer.sendall(record(event_type) + gap + record("notif_relayd"))
            assert subscriber.lines(2) == [gap, record("notif_relayd")]
        escaped = b'{"event_type": "\\u006eotif_relayd.error", "priority": "INFO"}\n'
        producer.sendall(escaped + record())
        assert subscriber.line() == record()
        relay.wait_status(records_rejected=4)
        relay.wait_logged("only the relay may use")


def test_longest_partial_records_are_rejected_at_the_limit(
    relay: RunningRelay,
) -> None:
    size = 1024 * 1024 - 1
    with contextlib.ExitStack() as stack:
        small = stack.enter_context(relay.produce())
        small.sendall(record()[:10])
        large = [stack.enter_context(relay.produce()) for _ in range(70)]
        for each in large:
            each.sendall(b"x" * size)
        relay.wait_status(bytes_received=10 + 70 * size, records_rejected=38)
        with relay.subscribe() as subscriber:
            small.sendall(record()[10:])
            assert subscriber.line() == record()
            large[0].sendall(b"\n" + record("after"))
            assert subscriber.line() == record("after")


def test_all_groups_of_a_peer_are_known(relay: RunningRelay) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(relay.public))
        assert peer_of(sock).pid == relay.process.pid
        assert peer_of(sock).groups == {os.getgid(), *os.getgroups()}


@needs_root
def test_all_groups_are_known_for_a_peer_in_1000_groups(directory: Path) -> None:
    many = range(10_000, 11_000)
    with open_relay(directory, "--relayd-public_allow_groups=games") as relay:
        with OtherUser(relay.public, 1234, 1234, *many, GAMES):
            relay.wait_status(subscribers=1)
        with OtherUser(relay.public, 1234, 1234, *many) as refused:
            assert "uid 1234 is not in" in refusal(refused.line())


GROUPS_CHANGED_LATER = """
import os, socket, sys
path, games = sys.argv[1], int(sys.argv[2])
os.setgroups(range(10_000, 11_000))
os.chmod(path, 0o666)
os.seteuid(1234)
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
os.seteuid(0)
os.setgroups([*range(10_000, 11_000), games])
print("connected", flush=True)
sys.stdin.read()
"""


@needs_root
def test_groups_are_those_at_connection_time(directory: Path) -> None:
    """Groups that /proc shows later, for this process or another with its ID, grant nothing."""
    directory.chmod(0o755)
    with managed_relay(directory, "--relayd-ingest_allow_groups=games") as relay:
        assert relay.stop() == 0
        command = [sys.executable, "-c", GROUPS_CHANGED_LATER, os.fspath(relay.ingest), str(GAMES)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"connected\n"
            relay.start()
            relay.wait_logged("refused: ")
            process.communicate()


def test_no_group_is_assumed_without_kernel_support() -> None:
    """On such a kernel, lists and rules that name groups permit nothing."""

    class OldSocket(socket.socket):
        def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
            if option == SO_PEERGROUPS:
                raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
            return super().getsockopt(level, option, size)

    ours, theirs = socket.socketpair()
    with theirs, OldSocket(fileno=ours.detach()) as old:
        assert peer_of(old).groups == {os.getgid()}


@needs_root
def test_payload_rule_permits_only_what_matches(directory: Path) -> None:
    directory.chmod(0o755)
    rules = directory / "rules.conf"
    rules.write_text(PAYLOAD_RULE)
    own, other = {"tenant_id": "8d7a"}, {"tenant_id": "51cc"}
    permitted = [record("compute.start", payload=own), record("compute.end", payload=[other, own])]
    refused = [
        record("compute.start", payload=other),
        record("compute.start", payload=own | {"secret": None}),
        record("volume.start", payload=own),
        record("compute.start"),
        record("compute.start", payload={"tenant_id": ["8d7a"] * 5000}),
    ]
    with (
        managed_relay(directory, "--config-file", str(rules)) as relay,
        relay.subscribe() as root,
        OtherUser(relay.public, 1234, GAMES) as plain,
        OtherUser(relay.public, 1234, GAMES) as filtered,
        relay.produce() as producer,
    ):
        filtered.write(b'{"filter": {"payload": {"secret": [{"exists": false}]}}}\n')
        assert b"notif_relayd.subscribed" in filtered.line()
        for restart in (False, True):
            if restart:
                relay.restart()
            producer.sendall(b"".join([*refused, *permitted]))
            assert root.lines(7) == [*refused, *permitted]
            assert [plain.line(), plain.line()] == permitted
            assert [filtered.line(), filtered.line()] == permitted
