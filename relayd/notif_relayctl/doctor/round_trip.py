# SPDX-License-Identifier: Apache-2.0
"""Check whether a notification that is sent arrives, and measure how long it takes.

The check uses the library, as services and subscribers do, but reports the records that the
library's sender drops. It is the last check, because connecting may start the service.
"""

import statistics
import time
import uuid
from collections.abc import Iterator

import notif_relay
from notif_relay.errors import PermissionDenied, RelayUnavailable, SubscriptionRefused
from notif_relay.notification import Gap
from notif_relay.records import PRODUCER_NOT_ADMITTED
from notif_relay.sender import Sender
from notif_relayctl import send
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, Finding
from notif_relayctl.doctor.host import Host
from notif_relayctl.errors import NotAllowedError, NotRunningError

CHECK = "round trip"

RECEIVE_TIMEOUT = 10.0
"""Seconds for the service to start, and for a notification to arrive."""

ROUNDS = 12
"""Notifications. The first one connects; the number of the others is odd, so that their median is a
measured value."""


def examine(host: Host) -> Iterator[Finding]:
    """Subscribe, send notifications and wait for each of them."""
    # A unique type, so that no other notification matches.
    event_type = f"relayctl.doctor.{uuid.uuid4()}"
    path = host.public.path
    try:
        with notif_relay.subscribe(
            path,
            event_type=event_type,
            timeout=RECEIVE_TIMEOUT,
            reconnect=False,
            on_gap=_ignore,
        ) as subscriber:
            yield _send(host, subscriber, event_type)
    except PermissionDenied as error:
        yield Finding(CHECK, SKIPPED, str(error))
    except TimeoutError:
        yield Finding(
            CHECK,
            FAILED,
            f"the process that listens on {path} does not answer a subscriber within "
            f"{RECEIVE_TIMEOUT:.0f} s",
            "check the relay's log, and whether the relay is stopped or overloaded",
        )
    except SubscriptionRefused as error:
        advice = "raise max_subscribers, or end connections with relayctl disconnect"
        if error.is_permanent:
            advice = _allow("public")
        yield Finding(CHECK, FAILED, str(error), advice)
    except RelayUnavailable as error:
        yield Finding(CHECK, FAILED, str(error), host.start)
    except ValueError as error:
        yield Finding(CHECK, FAILED, str(error), "set another path in relayd.conf")


def _ignore(_gap: Gap) -> None:
    """Ignore a gap: the missing records are not the ones of this check."""


def _send(host: Host, subscriber: notif_relay.Subscriber, event_type: str) -> Finding:
    sender = Sender(host.ingest.path, max_wait=send.SEND_TIMEOUT)
    micros = []
    for number in range(ROUNDS):
        record = send.notification(event_type, "INFO", send.own_publisher(), number)
        begin = time.perf_counter()
        sender.send(record)
        if sender.sent <= number:
            return _not_sent(host, sender)
        try:
            next(subscriber)
        except TimeoutError:
            return _not_received(sender, record)
        micros.append(round(1_000_000 * (time.perf_counter() - begin)))
    sender.close()
    first, *others = micros
    return Finding(
        CHECK,
        OK,
        f"a notification reached a subscriber in {statistics.median(others)} µs (median of "
        f"{len(others)}; the first, which connects, in {first} µs)",
    )


def _not_sent(host: Host, sender: Sender) -> Finding:
    if sender.refusal or (sender.connects and not sender.connected):
        return _disconnected(sender)
    error = send.undelivered("", sender)
    if isinstance(error, NotAllowedError):
        return Finding(CHECK, SKIPPED, str(error))
    not_running = isinstance(error, NotRunningError)
    advice = host.start if not_running else "check the relay's log"
    return Finding(CHECK, FAILED, str(error), advice)


def _not_received(sender: Sender, record: str) -> Finding:
    sender.send(record)  # The sender notices a closed connection only when it sends.
    if sender.connects > 1 or not sender.connected:
        return _disconnected(sender)
    return Finding(
        CHECK,
        FAILED,
        f"{sender.path} accepted a notification that did not reach a subscriber within "
        f"{RECEIVE_TIMEOUT:.0f} s",
        "check with relayctl status whether both sockets belong to the same relay",
    )


def _disconnected(sender: Sender) -> Finding:
    if sender.refusal.startswith(PRODUCER_NOT_ADMITTED):
        advice = _allow("ingest")
    elif sender.refusal:
        advice = "raise max_producers, or end connections with relayctl disconnect"
    else:
        finding = f"the relay at {sender.path} closed the connection of the producer"
        return Finding(CHECK, FAILED, finding, "check the relay's log")
    return Finding(CHECK, FAILED, str(send.refused("", sender)), advice)


def _allow(socket: str) -> str:
    return (
        f"add this user to {socket}_allow_users or one of its groups to {socket}_allow_groups in "
        "relayd.conf, and reload the relay"
    )
