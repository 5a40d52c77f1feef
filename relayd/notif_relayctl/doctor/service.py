# SPDX-License-Identifier: Apache-2.0
"""Whether a service, by its configuration, sends its notifications to this relay.

The options are oslo.messaging's and oslo.log's, and are read by oslo.config as the service reads
them. They are repeated here because neither package is to be asked: the one is not installed with
the daemon, and both keep their options to themselves. Their old names, which oslo.messaging
knew up to version 14, are options of their own here, so that it can be said which one is set.
"""

import os
import urllib.parse
from collections.abc import Generator, Iterator, Sequence

import msgspec
from oslo_config import cfg

from notif_relay import paths
from notif_relayctl.doctor import destination, logging_file
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding

SECTION = "oslo_messaging_notifications"

LOG, UNIX, ROUTING = "log", "unix", "routing"
MESSAGING = ("messaging", "messagingv2")
DRIVERS = (LOG, UNIX, ROUTING, *MESSAGING, "noop", "test")
"""What oslo.messaging has, and the library's own."""

USE_LOG = f"set driver = log in [{SECTION}]"


def examine(given: Sequence[str], ingest: str) -> Iterator[Finding]:
    """Say whether a service with these configuration files sends to the socket at `ingest`.

    Args:
        given: files, and directories of files, as the service gets them with --config-file and
            --config-dir. FILE.d is read with FILE where it is there, as oslo.config does.
        ingest: the relay's private socket.
    """
    check = f"service {' '.join(given)}"
    try:
        conf = _parsed(given)
        drivers = conf[SECTION].driver or conf.notification_driver
        if not conf[SECTION].driver and drivers:
            yield Finding(
                f"{check} driver",
                WARNING,
                "its drivers are set by [DEFAULT] notification_driver, which new versions of "
                "oslo.messaging do not know",
                USE_LOG,
            )
        yield from _examine(check, conf, drivers, ingest)
    except (cfg.ConfigFilesPermissionDeniedError, PermissionError):
        yield Finding(f"{check} file", SKIPPED, "you may not read it", "try it as root")
    except (cfg.Error, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        yield Finding(f"{check} file", FAILED, f"it cannot be used: {said}", "mend it")


def _parsed(given: Sequence[str]) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf.register_opts(
        [
            cfg.MultiStrOpt("driver", default=[]),
            cfg.StrOpt("transport_url"),
            cfg.StrOpt("routing_config"),
            cfg.StrOpt("sock_path"),
            cfg.StrOpt("ingest_path"),
        ],
        group=SECTION,
    )
    conf.register_opts(
        [
            cfg.MultiStrOpt("notification_driver", default=[]),
            cfg.StrOpt("notification_transport_url"),
            cfg.StrOpt("transport_url"),
            cfg.StrOpt("routing_notifier_config"),
            cfg.StrOpt("log_config_append", deprecated_name="log_config"),
        ]
    )
    directories = [each for each in given if os.path.isdir(each)]
    files = [each for each in given if each not in directories]
    beside = [f"{each}.d" for each in files if os.path.isdir(f"{each}.d")]
    conf(
        [],
        project="service",
        default_config_files=files,
        default_config_dirs=[*beside, *directories],
        use_env=False,  # which is not the service's
    )
    return conf


def _examine(
    check: str, conf: cfg.ConfigOpts, drivers: Sequence[str], ingest: str
) -> Iterator[Finding]:
    relayed = (LOG, UNIX) if _transport(conf) is None else (LOG, UNIX, *MESSAGING)
    arriving = [each for each in relayed if each in drivers]
    if not arriving and ROUTING in drivers:
        arriving = yield from _routed(f"{check} routing", conf)
    elif not arriving:
        yield _not_arriving(f"{check} driver", drivers)
    elif len(arriving) > 1:
        yield Finding(
            f"{check} driver",
            WARNING,
            f"{' and '.join(arriving)} each send every notification to a relay",
            f"keep one of {', '.join(arriving)}",
        )
    else:
        yield Finding(f"{check} driver", OK, f"its driver is {', '.join(drivers)}")
    for driver in arriving:
        if driver == LOG:
            yield from logging_file.examine(f"{check} log", conf.log_config_append, ingest)
        else:
            yield _path(f"{check} {driver}", conf, driver, ingest)


def _not_arriving(check: str, drivers: Sequence[str]) -> Finding:
    if not drivers:
        return Finding(check, FAILED, "it sends no notifications: no driver is set", USE_LOG)
    unknown = [each for each in drivers if each not in DRIVERS]
    finding = f"its notifications do not come here: driver is {', '.join(drivers)}"
    if unknown:
        finding += f", and there is no driver {unknown[0]!r}"
    several = any("," in each for each in unknown)
    advice = "write a line driver = NAME for each driver" if several else USE_LOG
    if any(each in MESSAGING for each in drivers):
        advice = f"add a second line driver = log in [{SECTION}]"
    return Finding(check, FAILED, finding, advice)


def _routed(check: str, conf: cfg.ConfigOpts) -> Generator[Finding, None, list[str]]:
    """Say what routing comes to; returns the drivers by which notifications may come here.

    That is the library's own at most. oslo.messaging's routing driver makes others without the
    arguments that oslo.messaging's own drivers need, and goes on without them.
    """
    path = conf[SECTION].routing_config or conf.routing_notifier_config
    if not path:
        yield Finding(
            check, FAILED, "the driver routing has no rules: routing_config is not set", USE_LOG
        )
        return []
    try:
        with open(path, "rb") as file:
            groups = msgspec.yaml.decode(file.read(), type=dict[str, dict[str, object]] | None)
    except PermissionError:
        yield Finding(check, SKIPPED, f"you may not read {path}", "try it as root")
        return []
    except (OSError, ValueError, RecursionError, msgspec.DecodeError) as error:
        said = " ".join(str(error).split())
        yield Finding(check, FAILED, f"{path} cannot be used: {said}", "mend it")
        return []
    if not any(UNIX in group for group in (groups or {}).values()):
        yield Finding(
            check,
            FAILED,
            f"its notifications do not come here: {path} does not name the driver {UNIX}, and the "
            f"routing driver cannot make {LOG}",
            f"name {UNIX} in it, or {USE_LOG}",
        )
        return []
    yield Finding(
        check,
        WARNING,
        f"some notifications go to the driver {UNIX}: which ones, {path} decides",
        "see there, as that is not looked at here",
    )
    return [UNIX]


def _transport(conf: cfg.ConfigOpts) -> str | None:
    """The public socket that a transport URL names; None where it names a broker."""
    url = conf[SECTION].transport_url or conf.notification_transport_url or conf.transport_url
    _, is_ours, path = (url or "").partition("unix://")
    return urllib.parse.unquote(path) if is_ours else None


def _path(check: str, conf: cfg.ConfigOpts, driver: str, ingest: str) -> Finding:
    """Where a driver sends to that knows the relay's sockets itself."""
    section = conf[SECTION]
    option = "sock_path" if driver == UNIX else "transport_url"
    public = section.sock_path if driver == UNIX else _transport(conf)
    if not public:
        return Finding(
            check,
            FAILED,
            f"the driver {driver} needs {option}, which names no socket",
            f"set {option} in [{SECTION}]",
        )
    beside = os.path.join(os.path.dirname(public), paths.INGEST_SOCKET)
    path = (driver == UNIX and section.ingest_path) or beside
    return destination.examine(check, f"the driver {driver}", path, ingest, option)
