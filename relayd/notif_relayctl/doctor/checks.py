# SPDX-License-Identifier: Apache-2.0
"""All checks, from the installation to the round trip.

A check depends on the checks before it, so the first failure is usually the cause of the others.
"""

from collections.abc import Iterator, Sequence

from notif_relayctl.doctor import bridges, library, rights, round_trip, service, sockets, units
from notif_relayctl.doctor.bridges import Places
from notif_relayctl.doctor.consumer import Bounds
from notif_relayctl.doctor.destination import Sockets
from notif_relayctl.doctor.finding import FAILED, SKIPPED, Finding
from notif_relayctl.doctor.host import Host
from notif_relayd.control.schema import Status


def run_checks(
    host: Host,
    *,
    users: Sequence[str | None],
    needs: Sequence[str],
    services: Sequence[Sequence[str]],
    places: Places,
    round_trips: bool,
) -> Iterator[Finding]:
    """Run all checks.

    Args:
        host: the relay and its sockets.
        users: see `rights.examine`.
        needs: see `rights.examine`.
        services: the files and directories of each service, see `service.examine`.
        places: see `bridges.examine`.
        round_trips: whether to connect to the sockets and send notifications.
    """
    relay_runs = isinstance(host.status, Status) or host.listens(host.public)
    yield from units.examine(host.names, host.units, relay_runs)
    yield host.configuration
    yield from sockets.directories(host)
    yield from sockets.files(host)
    yield from sockets.listeners(host, connecting=round_trips)
    for user in users:
        yield from rights.examine(host, user, needs)
    own = Sockets(*([each.path for each in host.named(name)] for name in ("public", "ingest")))
    for given in services:
        use = yield from service.examine(given, own, _bounds(host))
        yield from rights.examine_service(host, given, use, users)
        yield from library.examine(given, use.entry_points)
    yield from bridges.examine(host, places)
    if round_trips:
        yield from round_trip.examine(host)


def _bounds(host: Host) -> Bounds | None:
    """Return the limits that the relay has for consumers; `None` if they are not known."""
    if host.configuration.result in (FAILED, SKIPPED):
        return None
    limits = host.settings.limits
    return Bounds(limits.groups.max_hold, limits.max_filter_bytes_per_user)
