# SPDX-License-Identifier: Apache-2.0
"""Check whether the configuration of a service sends its notifications to this relay.

The options belong to oslo.messaging and oslo.log, and oslo.config reads them as the service does.
They are defined again here, because oslo.messaging is not installed with the daemon and both
packages keep their options private. The old names of options, which oslo.messaging up to version 14
accepts, are separate options here, so that a finding can name the one that is set.
"""

import os
import urllib.parse
from collections.abc import Generator, Iterable, Iterator, Sequence

import msgspec
from oslo_config import cfg

from notif_relay import paths
from notif_relayctl.access import AS_ROOT
from notif_relayctl.doctor import destination, logging_file
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayd.errors import one_line

SECTION = "oslo_messaging_notifications"

LOG, UNIX, ROUTING = "log", "unix", "routing"
MESSAGING = ("messaging", "messagingv2")
DRIVERS = (LOG, UNIX, ROUTING, *MESSAGING, "noop", "test")
"""The drivers of oslo.messaging and of the library."""

USE_LOG = f"set driver = log in [{SECTION}]"


def examine(given: Sequence[str], ingest: Sequence[str]) -> Iterator[Finding]:
    """Check whether a service sends its notifications to this relay.

    Args:
        given: the service's configuration files and directories, as it gets them with --config-file
            and --config-dir. FILE.d is read with FILE if it exists, as in oslo.config.
        ingest: the private sockets of the relay.
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
                "oslo.messaging ignore",
                USE_LOG,
            )
        yield from _examine(check, conf, drivers, ingest)
    except (cfg.ConfigFilesPermissionDeniedError, PermissionError):
        yield Finding(f"{check} file", SKIPPED, "you may not read it", AS_ROOT)
    except RecursionError:
        finding = "it cannot be used: the value of an option refers to the option itself"
        yield Finding(f"{check} file", FAILED, finding, "correct it")
    except (cfg.Error, OSError, UnicodeDecodeError) as error:
        yield Finding(
            f"{check} file", FAILED, f"it cannot be used: {one_line(error)}", "correct it"
        )


def _check_kind(files: Iterable[str]) -> None:
    """Check that files which exist are regular files: a FIFO may block, and a device has no end.

    Raises:
        OSError: one of them is not.
    """
    for path in files:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(f"{path} is not a regular file")


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
    for each in (*beside, *directories):
        _check_kind(os.path.join(each, name) for name in os.listdir(each))
    _check_kind(files)
    conf(
        [],
        project="service",
        default_config_files=files,
        default_config_dirs=[*beside, *directories],
        use_env=False,  # not the environment of the service
    )
    return conf


def _examine(
    check: str, conf: cfg.ConfigOpts, drivers: Sequence[str], ingest: Sequence[str]
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
            f"the drivers {' and '.join(arriving)} each send every notification to a relay",
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
    finding = f"its notifications do not reach the relay: driver is {', '.join(drivers)}"
    if unknown:
        finding += f", but a driver {unknown[0]!r} does not exist"
    several = any("," in each for each in unknown)
    advice = "write a line driver = NAME for each driver" if several else USE_LOG
    if any(each in MESSAGING for each in drivers):
        advice = f"add a second line driver = log in [{SECTION}]"
    return Finding(check, FAILED, finding, advice)


def _routed(check: str, conf: cfg.ConfigOpts) -> Generator[Finding, None, list[str]]:
    """Check the routing file; return the drivers by which notifications may reach the relay.

    Only the library's driver is possible. The routing driver of oslo.messaging creates the other
    drivers without the arguments that they require, and skips those that fail.
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
        yield Finding(check, SKIPPED, f"you may not read {path}", AS_ROOT)
        return []
    except (OSError, ValueError, RecursionError, msgspec.DecodeError) as error:
        yield Finding(check, FAILED, f"cannot read {path}: {one_line(error)}", "correct it")
        return []
    if not any(UNIX in group for group in (groups or {}).values()):
        yield Finding(
            check,
            FAILED,
            f"its notifications do not reach the relay: {path} does not name the driver {UNIX}, "
            f"and the routing driver cannot create the driver {LOG}",
            f"name {UNIX} in it, or {USE_LOG}",
        )
        return []
    yield Finding(
        check,
        WARNING,
        f"some notifications go to the driver {UNIX}, depending on {path}",
        "check its rules, which the doctor does not examine",
    )
    return [UNIX]


def _transport(conf: cfg.ConfigOpts) -> str | None:
    """Return the public socket that the transport URL names; `None` for the URL of a broker."""
    url = conf[SECTION].transport_url or conf.notification_transport_url or conf.transport_url
    _, scheme, path = (url or "").partition("unix://")
    return urllib.parse.unquote(path) if scheme else None


def _path(check: str, conf: cfg.ConfigOpts, driver: str, ingest: Sequence[str]) -> Finding:
    """Check the socket of a driver that connects to the relay itself."""
    section = conf[SECTION]
    option = "sock_path" if driver == UNIX else "transport_url"
    first = os.path.join(os.path.dirname(ingest[0]), paths.PUBLIC_SOCKET)
    remedy = f"set {option} in [{SECTION}] to {first if driver == UNIX else f'unix://{first}'}"
    if os.path.basename(ingest[0]) != paths.INGEST_SOCKET or section.ingest_path:
        remedy = f"set ingest_path in [{SECTION}] to {ingest[0]}"
    public = section.sock_path if driver == UNIX else _transport(conf)
    if not public:
        return Finding(
            check,
            FAILED,
            f"the driver {driver} requires {option}, which names no socket",
            remedy,
        )
    beside = os.path.join(os.path.dirname(public), paths.INGEST_SOCKET)
    path = (driver == UNIX and section.ingest_path) or beside
    return destination.examine(check, f"the driver {driver}", path, ingest, remedy)
