# SPDX-License-Identifier: Apache-2.0
"""Check whether the notify drivers of a service send its notifications to this relay, and once.

A service may have several drivers, each of which gets every notification. One of them must reach
the relay. Others may write to the service's own log, to a message broker or to another relay; only
a second way to the same relay is a fault.
"""

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from notif_relay import paths
from notif_relay.connection import checked_path
from notif_relayctl.doctor import destination, logging_file, routing
from notif_relayctl.doctor.destination import Sockets
from notif_relayctl.doctor.finding import FAILED, OK, WARNING, Finding

SECTION = "oslo_messaging_notifications"

LOG, UNIX, ROUTING, TEST = "log", "unix", "routing", "test"
MESSAGING = ("messagingv2", "messaging")
DRIVERS = (LOG, UNIX, ROUTING, *MESSAGING, "noop", TEST)
"""The drivers of oslo.messaging and of the library."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a service that decide where its notifications go; `None` if not set."""

    drivers: Sequence[str]
    transport: str | None = None
    """The public socket that the transport URL names; `None` for the URL of a broker."""
    sock_path: str | None = None
    ingest_path: str | None = None
    routing_config: str | None = None
    log_config_append: str | None = None


@dataclass(frozen=True, slots=True)
class _Way:
    """A driver by which notifications may reach this relay."""

    driver: str
    arrives: bool
    """Whether notifications reach this relay."""
    alone: Sequence[Finding]
    """The findings if no other driver reaches the relay."""
    beside: Sequence[Finding] = field(default=())
    """The findings if another driver reaches the relay, and this one does not."""


def examine(
    check: str, options: Options, sockets: Sockets, *, is_optional: bool = False
) -> Generator[Finding, None, list[str]]:
    """Check the drivers of a service that should send to this relay.

    Args:
        check: first words of the name of each check.
        options: the options of the service.
        sockets: the sockets of the relay.
        is_optional: whether the service uses the relay in another way, such as reading from it.
            Only drivers that connect to a relay are then expected to reach this one.

    Returns:
        The drivers that reach the relay.
    """
    drivers = [each for each in dict.fromkeys(options.drivers) if each]
    ways = list(_ways(check, options, drivers, sockets))
    if is_optional and not drivers:
        yield Finding(f"{check} driver", OK, "it sends nothing by a notify driver: none is set")
        return []
    if not ways and not is_optional:
        yield _not_arriving(f"{check} driver", drivers, sockets)
        return []
    arriving = [each for each in ways if each.arrives]
    yield from _drivers(f"{check} driver", drivers, [each.driver for each in arriving])
    # If no driver reaches the relay, correct the first one only: correcting all would duplicate.
    expected = [each for each in ways if each.driver in (UNIX, *MESSAGING) or not is_optional]
    used = arriving or expected[:1]
    for each in ways:
        yield from each.alone if each in used else each.beside
    return [each.driver for each in arriving]


def _ways(check: str, options: Options, drivers: Sequence[str], sockets: Sockets) -> Iterator[_Way]:
    """Yield the drivers that can send to a relay, the preferred one first."""
    if UNIX in drivers:
        yield _connecting(f"{check} {UNIX}", options, UNIX, sockets)
    if options.transport is not None:
        for driver in MESSAGING:
            if driver in drivers:
                yield _connecting(f"{check} {driver}", options, driver, sockets)
    if LOG in drivers:
        yield _logging(f"{check} {LOG}", options.log_config_append, sockets)
    if ROUTING in drivers:
        yield _routed(check, options, sockets)


def _drivers(check: str, drivers: Sequence[str], arriving: Sequence[str]) -> Iterator[Finding]:
    """Check the list of drivers, of which some can send to a relay."""
    unknown = [each for each in drivers if each not in DRIVERS]
    if len(arriving) > 1:
        yield Finding(
            check,
            WARNING,
            f"the drivers {' and '.join(arriving)} send the same notifications to the relay",
            f"keep one of {', '.join(arriving)}"
            + (", or remove the relay's handler from the logging file" if LOG in arriving else ""),
        )
    elif not unknown:
        yield Finding(check, OK, f"its driver is {', '.join(drivers)}")
    if unknown:
        yield Finding(check, WARNING, f"a driver {unknown[0]!r} does not exist", _correct(unknown))
    if TEST in drivers:
        yield Finding(
            check,
            WARNING,
            f"the driver {TEST} keeps every notification in the memory of the service",
            f"remove the line driver = {TEST}",
        )


def _correct(unknown: Sequence[str]) -> str:
    if any("," in each for each in unknown):
        return "write a line driver = NAME for each driver"
    return f"correct or remove the line driver = {unknown[0]}"


def _not_arriving(check: str, drivers: Sequence[str], sockets: Sockets) -> Finding:
    use_unix = f"driver = {UNIX} in [{SECTION}], and sock_path = {sockets.first_public}"
    if not drivers:
        finding = "it sends no notifications: no driver is set"
        return Finding(check, FAILED, finding, f"set {use_unix}")
    unknown = [each for each in drivers if each not in DRIVERS]
    finding = f"its notifications do not reach the relay: driver is {', '.join(drivers)}"
    advice = f"add a line {use_unix}" if any(each in MESSAGING for each in drivers) else ""
    if unknown:
        finding += f", but a driver {unknown[0]!r} does not exist"
        if not advice and any("," in each for each in unknown):
            advice = _correct(unknown)
    return Finding(check, FAILED, finding, advice or f"set {use_unix}")


def _connecting(check: str, options: Options, driver: str, sockets: Sockets) -> _Way:
    """Check the socket of a driver that connects to the relay itself."""
    found = _path(check, options, driver, sockets)
    beside = found
    if destination.is_of_another_relay(found):
        beside = Finding(check, OK, found.finding)
    elif found.result == FAILED:
        advice = f"remove the line driver = {driver}: one driver for the relay is enough"
        beside = Finding(check, WARNING, found.finding, advice)
    return _Way(driver, found.result == OK, [found], [beside])


def _path(check: str, options: Options, driver: str, sockets: Sockets) -> Finding:
    option = "sock_path" if driver == UNIX else "transport_url"
    first = sockets.first_public
    remedy = f"set {option} in [{SECTION}] to {first if driver == UNIX else f'unix://{first}'}"
    if os.path.basename(sockets.ingest[0]) != paths.INGEST_SOCKET or options.ingest_path:
        remedy = f"set ingest_path in [{SECTION}] to {sockets.ingest[0]}"
    public = options.sock_path if driver == UNIX else options.transport
    if not public:
        finding = f"the driver {driver} requires {option}, which names no socket"
        return Finding(check, FAILED, finding, remedy)
    if driver == UNIX and (problem := _problem(public)):
        finding = f"the driver {UNIX} cannot use sock_path = {public}: {problem}"
        return Finding(check, FAILED, finding, f"set sock_path in [{SECTION}] to {first}")
    path = options.ingest_path or os.path.join(os.path.dirname(public), paths.INGEST_SOCKET)
    return destination.examine(check, f"the driver {driver}", path, sockets, remedy)


def _problem(sock_path: str) -> str:
    """Return why the driver refuses this path, even if ingest_path names the private socket."""
    if not os.path.isabs(sock_path):
        return "it depends on the service's working directory"
    try:
        checked_path(sock_path)
    except ValueError as error:
        return str(error)
    return "it is a directory" if os.path.isdir(sock_path) else ""


def _logging(check: str, path: str | None, sockets: Sockets) -> _Way:
    """Check the logging file, which decides whether the log driver sends to the relay."""
    own_log = Finding(check, OK, f"the driver {LOG} writes to the service's own log")
    if not path:
        finding = "notifications go to the service's own log: log_config_append is not set"
        advice = f"set log_config_append in [DEFAULT] to a copy of {logging_file.SAMPLE}"
        return _Way(LOG, False, [Finding(check, FAILED, finding, advice)], [own_log])
    loggers = logging_file.read(check, path)
    if isinstance(loggers, Finding):
        return _Way(LOG, False, [loggers], [loggers])
    found = list(logging_file.examine(check, path, loggers, sockets))
    if fatal := logging_file.fatal(check, loggers, sockets):
        return _Way(LOG, False, found, [fatal])
    names = [handler.name for _, handler in logging_file.relay_handlers(loggers)]
    if not names:
        return _Way(LOG, False, found, [own_log])
    results = {each.result for each in found}
    if all(each.result == OK or destination.is_of_another_relay(each) for each in found):
        beside = [Finding(check, OK, each.finding) for each in found]
    else:
        finding = f"in {path}, the relay's handler {names[0]} gets notifications that another "
        finding += "driver sends to the relay already"
        advice = f"remove the handler {names[0]} from its logger"
        beside = [Finding(check, WARNING, finding, advice)]
    return _Way(LOG, OK in results and FAILED not in results, found, beside)


def _routed(check: str, options: Options, sockets: Sockets) -> _Way:
    """Check the routing file, which may name the library's driver."""
    path, check_file = options.routing_config, f"{check} {ROUTING}"
    use_unix = f"set driver = {UNIX} in [{SECTION}], and sock_path = {sockets.first_public}"
    named = routing.drivers(check_file, path, use_unix)
    if isinstance(named, Finding):
        advice = f"correct it, or remove the line driver = {ROUTING}"
        failed = named.result == FAILED
        beside = Finding(check_file, WARNING, named.finding, advice) if failed else named
        return _Way(ROUTING, False, [named], [beside])
    if UNIX not in named:
        finding = f"its notifications do not reach the relay: {path} does not name the driver "
        finding += f"{UNIX}, and the routing driver cannot create the driver {LOG}"
        advice = f"name {UNIX} in it, or {use_unix}"
        return _Way(ROUTING, False, [Finding(check_file, FAILED, finding, advice)])
    finding = f"some notifications go to the driver {UNIX}, depending on {path}"
    advice = "check its rules, which the doctor does not examine"
    some = Finding(check_file, WARNING, finding, advice)
    if UNIX in options.drivers:  # Its own check examines the socket.
        return _Way(ROUTING, _path(check, options, UNIX, sockets).result == OK, [some])
    connecting = _connecting(f"{check} {UNIX}", options, UNIX, sockets)
    return _Way(ROUTING, connecting.arrives, [some, *connecting.alone], connecting.beside)
