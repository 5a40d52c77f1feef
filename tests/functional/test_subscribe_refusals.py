# SPDX-License-Identifier: Apache-2.0
"""What a subscriber learns when the relay refuses it or lets it read nothing."""

from __future__ import annotations

import contextlib
import grp
import json
import logging
from pathlib import Path

import pytest

from notif_relay import RelayUnavailable, SubscriptionRefused, subscribe
from support.records import record
from support.relay import RunningRelay, Subscriber, running_relay
from support.relayctl import assert_error, needs_root, relayctl, relayctl_as_nobody
from support.scripts import Scripts
from support.waiting import TIMEOUT

DAEMON_ONLY = ("--relayd-public_allow_users", "daemon")
FULL = ("--relayd-max_subscribers", "1")


BECOME_NOBODY = """
import logging, os, sys
from notif_relay import SubscriptionRefused, subscribe
subscribe(sys.argv[1]).close()  # as root, to import all modules
os.setgroups([int(each) for each in sys.argv[2].split()])
os.setgid(65534)
os.setuid(65534)
"""

EXCLUDED = (
    BECOME_NOBODY
    + """
for reconnect in (True, False):
    try:
        subscribe(sys.argv[1], reconnect=reconnect, timeout=30)
    except SubscriptionRefused as error:
        print(error.is_permanent, error)
"""
)


@needs_root
def test_excluded_user_gets_the_relays_sentence(open_directory: Path, scripts: Scripts) -> None:
    with running_relay(open_directory, *DAEMON_ONLY) as relay:
        relay.public.chmod(0o666)
        lines = scripts.run("-c", EXCLUDED, relay.public, "").finish().splitlines()
    sentence = (
        f"True no connection to the relay at {relay.public}: This relay does not admit this"
        " subscriber: uid 65534 is not in public_allow_users or public_allow_groups."
    )
    assert lines == [sentence] * 2


@pytest.mark.parametrize("reconnect", [True, False])
def test_full_relay_refuses_a_new_subscriber(directory: Path, reconnect: bool) -> None:
    with (
        running_relay(directory, *FULL) as relay,
        subscribe(relay.public),
        pytest.raises(SubscriptionRefused, match="max_subscribers = 1 is reached") as raised,
    ):
        subscribe(relay.public, reconnect=reconnect, timeout=TIMEOUT)
    assert not raised.value.is_permanent
    assert isinstance(raised.value, RelayUnavailable)


def test_refusal_is_read_although_the_relay_closes_first(directory: Path) -> None:
    with running_relay(directory, *FULL) as relay, subscribe(relay.public):
        for _ in range(100):
            with pytest.raises(SubscriptionRefused, match="max_subscribers = 1"):
                subscribe(relay.public, event_type="a")


def test_tail_of_a_full_relay_exits_4_with_its_sentence(directory: Path) -> None:
    with running_relay(directory, *FULL) as relay, relay.subscribe():
        done = relayctl(directory, "tail")
    assert_error(done, 4, "This relay takes no more subscribers: max_subscribers = 1 is reached.")


@needs_root
def test_tail_of_an_excluded_user_exits_4_with_the_sentence(open_directory: Path) -> None:
    with running_relay(open_directory, *DAEMON_ONLY) as relay:
        relay.public.chmod(0o666)
        done = relayctl_as_nobody(open_directory, "tail")
    assert_error(done, 4, "This relay does not admit this subscriber: uid 65534 is not in public_")


EXCLUDED_LATER = (
    BECOME_NOBODY
    + """
with subscribe(sys.argv[1], timeout=30) as subscriber:
    print("subscribed", flush=True)
    try:
        next(subscriber)
    except SubscriptionRefused as error:
        print(error.is_permanent, list(subscriber))
"""
)


@needs_root
def test_user_excluded_during_an_outage_gets_the_sentence(
    open_directory: Path, scripts: Scripts
) -> None:
    with running_relay(open_directory) as relay:
        relay.public.chmod(0o666)
        script = scripts.run("-W", "ignore", "-c", EXCLUDED_LATER, relay.public, "")
        assert script.line() == "subscribed"
        # The socket of the next relay must be open to the process when it reconnects.
        (open_directory / "notify.sock").unlink()
        relay.process.kill()
        relay.process.wait(TIMEOUT)
    with running_relay(open_directory, *DAEMON_ONLY, "--relayd-public_group", "nogroup"):
        assert script.finish() == "True []\n"


def test_limit_reached_during_an_outage_is_retried(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "notif_relay")
    with contextlib.ExitStack() as stack:
        with running_relay(directory) as relay:
            subscriber = stack.enter_context(subscribe(relay.public, timeout=0.01))
        (directory / "notify.sock").unlink()
        relay = stack.enter_context(running_relay(directory, *FULL))
        other = Subscriber(relay.public)
        relay.wait_status(subscribers=1)
        while "max_subscribers = 1" not in caplog.text:
            with pytest.raises(TimeoutError):
                next(subscriber)
        other.close()
        while "connected again" not in caplog.text:
            with contextlib.suppress(TimeoutError):
                next(subscriber)
    waiting = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(waiting) == 2
    assert waiting[0].startswith(f"waiting for a relay at {relay.public}: ")
    assert f"connected again to the relay at {relay.public}" in caplog.text


def test_first_relay_is_logged_when_it_comes(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "notif_relay")
    with contextlib.ExitStack() as stack:
        subscriber = stack.enter_context(subscribe(directory / "notifications.sock", timeout=0.01))
        relay = stack.enter_context(running_relay(directory))
        while len(caplog.records) < 2:
            with pytest.raises(TimeoutError):
                next(subscriber)
    assert [each.getMessage() for each in caplog.records] == [
        f"waiting for a relay at {relay.public}: the socket does not exist; is notif-relayd"
        " installed and running?",
        f"connected to the relay at {relay.public}",
    ]


RULES = """
[relayd]
access_rules = compute
[access:compute]
group = {group}
event_type = compute.*, port.update.*
publisher_id = nova:*
"""

NOTICE = (
    BECOME_NOBODY
    + """
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with subscribe(sys.argv[1], timeout=30, **eval(sys.argv[3])) as subscriber:
    print(repr(subscriber.notice), flush=True)
"""
)


@needs_root
@pytest.mark.parametrize(
    ("is_member", "patterns", "notice"),
    [
        (False, {}, "No access rule of this relay lets this user read"),
        (False, {"event_type": "compute.*"}, "No access rule of this relay lets this user read"),
        (True, {}, ""),
        (True, {"event_type": "compute.x"}, ""),
        (True, {"event_type": "*.end"}, ""),
        (True, {"event_type": ["volume.*", "c*"]}, ""),
        (True, {"event_type": "volume.*"}, "read none of these notifications"),
        (True, {"event_type": "volume.create.end"}, "read none of these notifications"),
        (True, {"publisher_id": ["neutron:*", "x"]}, "read none of these notifications"),
        (True, {"event_type": "port.*", "publisher_id": "*:host"}, ""),
    ],
)
def test_answer_tells_that_access_rules_leave_nothing(
    open_directory: Path, scripts: Scripts, is_member: bool, patterns: object, notice: str
) -> None:
    group = grp.getgrnam("games")
    (open_directory / "relayd.conf").write_text(RULES.format(group=group.gr_name))
    config = str(open_directory / "relayd.conf")
    with running_relay(open_directory, "--config-file", config) as relay:
        relay.public.chmod(0o666)
        groups = str(group.gr_gid) if is_member else ""
        script = scripts.run("-c", NOTICE, relay.public, groups, repr(patterns))
        *logged, told = script.finish().splitlines()
    assert notice in told
    assert bool(logged) == bool(notice)
    assert told == repr("") or all(notice in line for line in logged)


@pytest.fixture
def open_directory(directory: Path) -> Path:
    directory.chmod(0o755)
    return directory


def test_answer_has_no_notice_without_access_rules(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        subscriber.socket.sendall(b'{"filter": {"event_type": ["a"]}}\n')
        assert subscriber.notification()["payload"] == {"event_type": ["a"]}
        producer.sendall(record("a"))
        assert json.loads(subscriber.line())["event_type"] == "a"
