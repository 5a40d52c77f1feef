# SPDX-License-Identifier: Apache-2.0
"""Check the transport URLs of a service, besides those of its notify drivers.

oslo.messaging has one option for the URL, which a notifier and a listener share. Other options
belong to a single program, such as ``messaging_urls`` of ceilometer.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from notif_relay import paths
from notif_relay.messaging.groups import DEFAULT_WINDOW
from notif_relayctl.doctor import destination
from notif_relayctl.doctor.destination import Sockets
from notif_relayctl.doctor.finding import FAILED, WARNING, Finding
from notif_relayctl.doctor.transport_url import OWN_COPY, UnixUrl

WINDOW_COST = 120
"""Bytes that the relay charges for each notification of a window, as in the description of
``max_filter_bytes_per_user``."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the relay for groups."""

    max_hold: float
    """Seconds."""
    max_filter_bytes_per_user: int


@dataclass(frozen=True, slots=True)
class Reader:
    """An option by which a service reads notifications."""

    section: str
    option: str
    url: UnixUrl

    @property
    def name(self) -> str:
        """Name of the option for a message."""
        return f"[{self.section}] {self.option}"


def refused(check: str, reader: Reader, sockets: Sockets) -> Finding | None:
    """Return a finding if the transport refuses the URL of an option; `None` if it accepts it.

    The service then usually does not start, even if it only sends.

    Args:
        check: name of the check.
        reader: the option.
        sockets: the sockets of the relay.
    """
    if not reader.url.problem:
        return None
    finding = f"the service cannot use {reader.name}: {reader.url.problem}"
    bad_query = reader.url.problem_is_query
    advice = "correct the query of the URL" if bad_query else _remedy(reader, sockets)
    return Finding(check, FAILED, finding, advice)


def examine_sender(check: str, sender: Reader, sockets: Sockets) -> Finding:
    """Check a URL to which a service sends other than by its notify drivers.

    Args:
        check: name of the check.
        sender: the option and its value.
        sockets: the sockets of the relay.
    """
    if finding := refused(check, sender, sockets):
        return finding
    path = os.path.join(os.path.dirname(sender.url.path), paths.INGEST_SOCKET)
    return destination.examine(check, sender.name, path, sockets, _remedy(sender, sockets))


def examine(
    check: str, reader: Reader, sockets: Sockets, bounds: Bounds | None
) -> Iterator[Finding]:
    """Check a URL from which a service reads.

    Args:
        check: name of the check.
        reader: the option and its value.
        sockets: the sockets of the relay.
        bounds: the limits of the relay; `None` if they are unknown.
    """
    if refusal := refused(check, reader, sockets):
        yield refusal
        return
    url = reader.url
    yield destination.examine_reader(
        check, reader.name, url.path, sockets, _remedy(reader, sockets)
    )
    if url.has_fragment:
        yield Finding(
            check,
            WARNING,
            f"{reader.name} contains a #; oslo.messaging discards the rest of the URL",
            "remove the rest, or write # as %23",
        )
    if not url.own_copy:
        yield from _limits(check, reader, bounds)
        if "group" in url.empty:
            yield Finding(
                check,
                WARNING,
                f"oslo.messaging discards the empty group in {reader.name}: the workers share the "
                "notifications",
                f"write group={OWN_COPY} for an own copy each, or remove the group",
            )
    elif unused := [key for key in ("window", "hold") if key in url.query]:
        finding = f"an own copy has no {' and no '.join(unused)}, but {reader.name} sets it"
        yield Finding(check, WARNING, finding, f"remove {' and '.join(unused)}, or name a group")


def _limits(check: str, reader: Reader, bounds: Bounds | None) -> Iterator[Finding]:
    """Compare the query with the limits of the relay."""
    if bounds is None:
        return
    hold, window = reader.url.hold, reader.url.window
    if hold is not None and hold > bounds.max_hold:
        yield Finding(
            check,
            FAILED,
            f"the relay refuses hold={hold:.15g} of {reader.name}: its max_hold is "
            f"{bounds.max_hold:.15g} seconds",
            f"set hold to at most {bounds.max_hold:.15g}, or raise max_hold in relayd.conf",
        )
    memory = WINDOW_COST * window
    if memory > bounds.max_filter_bytes_per_user:
        result, finding = FAILED, "the relay refuses it"
    elif window > DEFAULT_WINDOW and 2 * memory > bounds.max_filter_bytes_per_user:
        result, finding = WARNING, "the relay refuses a second worker"
    else:
        return
    yield Finding(
        check,
        result,
        f"window={window} of {reader.name} takes {memory} bytes of the relay: {finding}, because "
        f"max_filter_bytes_per_user is {bounds.max_filter_bytes_per_user}",
        "reduce window, or raise max_filter_bytes_per_user in relayd.conf",
    )


def _remedy(reader: Reader, sockets: Sockets) -> str:
    return f"set {reader.name} to unix://{sockets.public[0]}"
