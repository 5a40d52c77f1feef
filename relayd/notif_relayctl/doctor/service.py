# SPDX-License-Identifier: Apache-2.0
"""Check whether the configuration of a service sends its notifications to this relay.

The options belong to oslo.messaging and oslo.log, and oslo.config reads them as the service does.
They are defined again here, because oslo.messaging is not installed with the daemon and both
packages keep their options private. The old names of options, which oslo.messaging up to version 14
accepts, are separate options here, so that a finding can name the one that is set.
"""

import os
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence

from oslo_config import cfg

from notif_relayctl.access import AS_ROOT
from notif_relayctl.doctor import drivers
from notif_relayctl.doctor.destination import Sockets
from notif_relayctl.doctor.drivers import SECTION
from notif_relayctl.doctor.finding import FAILED, SKIPPED, WARNING, Finding
from notif_relayd.errors import one_line


def examine(given: Sequence[str], sockets: Sockets) -> Iterator[Finding]:
    """Check whether a service sends its notifications to this relay.

    Args:
        given: the service's configuration files and directories, as it gets them with --config-file
            and --config-dir. FILE.d is read with FILE if it exists, as in oslo.config.
        sockets: the sockets of the relay.
    """
    check = f"service {' '.join(given)}"
    try:
        conf = _parsed(given)
        names = conf[SECTION].driver or conf.notification_driver
        if not conf[SECTION].driver and names:
            yield Finding(
                f"{check} driver",
                WARNING,
                "its drivers are set by [DEFAULT] notification_driver, which new versions of "
                "oslo.messaging ignore",
                f"set driver in [{SECTION}] instead",
            )
        yield from drivers.examine(check, _options(conf, names), sockets)
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


def _transport(conf: cfg.ConfigOpts) -> str | None:
    """Return the public socket that the transport URL names; `None` for the URL of a broker."""
    url = conf[SECTION].transport_url or conf.notification_transport_url or conf.transport_url
    _, scheme, path = (url or "").partition("unix://")
    return urllib.parse.unquote(path.partition("?")[0]) if scheme else None


def _options(conf: cfg.ConfigOpts, names: Sequence[str]) -> drivers.Options:
    section = conf[SECTION]
    return drivers.Options(
        names,
        _transport(conf),
        section.sock_path,
        section.ingest_path,
        section.routing_config or conf.routing_notifier_config,
        conf.log_config_append,
    )
