# SPDX-License-Identifier: Apache-2.0
"""Whether a notification that is sent in comes out, and how soon.

This goes the way of every service and every subscriber, through the library; only the library's
silence about what it drops is of no use here. To connect may start the service, which is why it
comes last.
"""

import statistics
import time
import uuid
from collections.abc import Iterator

import notif_relay
from notif_relay import records
from notif_relay.errors import PermissionDenied, RelayUnavailable
from notif_relay.notification import Gap
from notif_relay.sender import Sender
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, Finding
from notif_relayctl.doctor.host import Host
from notif_relayctl.errors import NotAllowedError, NotRunningError
from notif_relayctl.send import SEND_TIMEOUT as SENDING_PATIENCE
from notif_relayctl.send import notification, own_publisher, undelivered

CHECK = "round trip"

SEND_TIMEOUT = 10.0
"""Seconds for the service to be started, and for a notification to come out."""

ROUNDS = 12
"""Notifications; an odd number after the first, so that their median was measured."""


def examine(host: Host) -> Iterator[Finding]:
    """Send, and wait for what comes."""
    # A type of its own, so that nobody else's notification is taken for it.
    event_type = f"relayctl.doctor.{uuid.uuid4()}"
    path = host.public.path
    try:
        with notif_relay.subscribe(
            path, event_type=event_type, timeout=SEND_TIMEOUT, reconnect=False, on_gap=_pass_over
        ) as subscriber:
            yield _send(host, subscriber, event_type)
    except PermissionDenied as error:
        yield Finding(CHECK, SKIPPED, str(error))
    except TimeoutError:
        yield Finding(
            CHECK,
            FAILED,
            f"who listens on {path} does not answer a subscriber within {SEND_TIMEOUT:.0f} s",
            "see the relay's log, and whether it is stopped or overloaded",
        )
    except RelayUnavailable as error:
        full = error.reason.startswith(records.TOO_MANY_SUBSCRIBERS)
        advice = "raise max_subscribers, or end some with relayctl disconnect"
        yield Finding(CHECK, FAILED, str(error), advice if full else host.start)
    except ValueError as error:
        yield Finding(CHECK, FAILED, str(error), "set another path in relayd.conf")


def _pass_over(_gap: Gap) -> None:
    """Somebody else's records are missing."""


def _send(host: Host, subscriber: notif_relay.Subscriber, event_type: str) -> Finding:
    sender = Sender(host.ingest.path, max_wait=SENDING_PATIENCE)
    micros = []
    for number in range(ROUNDS):
        record = notification(event_type, "INFO", own_publisher(), number)
        begin = time.perf_counter()
        sender.send(record)
        if sender.sent <= number:
            return _not_sent(host, sender)
        try:
            next(subscriber)
        except TimeoutError:
            return _lost(sender, record)
        micros.append(round(1_000_000 * (time.perf_counter() - begin)))
    sender.close()
    first, *others = micros
    return Finding(
        CHECK,
        OK,
        f"what is sent in comes out within {statistics.median(others)} µs (median of "
        f"{len(others)}; the first, which connects, within {first} µs)",
    )


def _not_sent(host: Host, sender: Sender) -> Finding:
    if sender.connects and not sender.connected:
        return _hung_up(sender)
    error = undelivered("", sender.path)
    if isinstance(error, NotAllowedError):
        return Finding(CHECK, SKIPPED, str(error))
    not_running = isinstance(error, NotRunningError)
    return Finding(CHECK, FAILED, str(error), host.start if not_running else "see the relay's log")


def _lost(sender: Sender, record: str) -> Finding:
    sender.send(record)  # Only by sending more can it be told that the relay has hung up.
    if sender.connects > 1 or not sender.connected:
        return _hung_up(sender)
    return Finding(
        CHECK,
        FAILED,
        f"{sender.path} took a notification that did not come out within {SEND_TIMEOUT:.0f} s",
        "see with relayctl status whether both sockets are the same relay's",
    )


def _hung_up(sender: Sender) -> Finding:
    return Finding(
        CHECK,
        FAILED,
        f"the relay behind {sender.path} hangs up on a producer: it has too many",
        "raise max_producers, or end some with relayctl disconnect",
    )
