# SPDX-License-Identifier: Apache-2.0
"""All checks, in the order of a visit: from what is installed to whether it works.

So the first row that has failed is mostly the cause of the others.
"""

from collections.abc import Iterator, Sequence

from notif_relayctl.doctor import rights, round_trip, service, sockets, units
from notif_relayctl.doctor.finding import Finding
from notif_relayctl.doctor.host import found
from notif_relayd.control.schema import Status


def visit(
    runtime_dir: str,
    control_path: str,
    relayd_config: str | None,
    *,
    users: Sequence[str | None],
    needs: Sequence[str],
    services: Sequence[Sequence[str]],
    round_trips: bool,
) -> Iterator[Finding]:
    """Check one after the other; what the arguments mean is said where each is checked."""
    host = found(runtime_dir, control_path, relayd_config)
    relay_runs = isinstance(host.status, Status) or host.listens(host.public)
    yield from units.examine(host.units, relay_runs)
    yield host.configuration
    yield from sockets.directories(host)
    yield from sockets.files(host)
    yield from sockets.listeners(host, connecting=round_trips)
    for user in users:
        yield from rights.examine(host, user, needs)
    for given in services:
        yield from service.examine(given, host.ingest.path)
    if round_trips:
        yield from round_trip.examine(host)
