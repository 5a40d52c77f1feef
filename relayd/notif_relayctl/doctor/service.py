# SPDX-License-Identifier: Apache-2.0
"""Check whether the configuration of a service fits this relay.

A service sends to the relay by its notify drivers, reads from it by a transport URL, or both. The
options belong to oslo.messaging and oslo.log, and oslo.config reads them as the service does. They
are defined again here, because oslo.messaging is not installed with the daemon and both packages
keep their options private. The old names of options, which oslo.messaging up to version 14 accepts,
are separate options here, so that a finding can name the one that is set.
"""

import os
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from oslo_config import cfg

from notif_relayctl.access import AS_ROOT
from notif_relayctl.doctor import consumer, destination, drivers, transport_url, urls
from notif_relayctl.doctor.consumer import Bounds, Reader
from notif_relayctl.doctor.destination import Sockets
from notif_relayctl.doctor.drivers import MESSAGING, ROUTING, SECTION, UNIX
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayctl.doctor.urls import Sections
from notif_relayd.config_file import BoundedOpts, ConfigFile
from notif_relayd.daemon.config_files import files_in
from notif_relayd.errors import StartError, one_line

NOTIFY_DRIVERS, TRANSPORTS = "oslo.messaging.notify.drivers", "oslo.messaging.drivers"
"""Groups of entry points, in which the library has one each, named unix."""

DEFAULT = "DEFAULT"

OLD_URL = "notification_transport_url"
"""Old name of the URL for notifications, in [DEFAULT]."""

MAX_FILES = 200
"""Files of one service that are read. Each has at most `config_file.MAX_SIZE` bytes."""

CONSUMERS = {"aodh", "blazar", "ceilometer", "searchlight", "senlin", "vitrage", "watcher"}
"""Programs that read from oslo.messaging's own URL, by the names of their files or directories."""

PRODUCERS = {
    *("cinder", "glance", "heat", "ironic", "keystone", "magnum", "manila", "neutron", "nova"),
    *("octavia", "placement", "trove"),
}
"""Programs that read no notifications, by the same names. Their URL needs a driver."""

NOTIFIERS = {"aodh", "vitrage"}
"""Those whose programs notify each other by this URL, without a notify driver in the file."""

CONSUMER_SECTIONS = ("notification", "service:sink")
"""Sections of programs that do: ceilometer-agent-notification and designate-sink."""

BARBICAN, MISTRAL = "keystone_notifications", "event_engine"
"""Sections of two programs that read from the URL for remote procedure calls:
barbican-keystone-listener, which makes none, and mistral's event engine."""


@dataclass(frozen=True, slots=True)
class Use:
    """How a service uses the relay, as far as its configuration is right."""

    reads: Sequence[str] = ()
    """The public sockets that it reads from."""
    sends: bool = False
    entry_points: frozenset[str] = frozenset()
    """Groups in which the environment of the service must have an entry point of the library."""


def examine(
    given: Sequence[str], sockets: Sockets, bounds: Bounds | None
) -> Generator[Finding, None, Use]:
    """Check whether a service sends its notifications to this relay, or reads from it.

    Args:
        given: the service's configuration files and directories, as it gets them with --config-file
            and --config-dir. FILE.d is read with FILE if it exists, as in oslo.config.
        sockets: the sockets of the relay.
        bounds: the limits of the relay; `None` if they are unknown.

    Returns:
        How the service uses the relay.
    """
    check = f"service {' '.join(given)}"
    try:
        sections = _sections(given)
        return (yield from _examine(check, given, _parsed(given), sections, sockets, bounds))
    except (cfg.ConfigFilesPermissionDeniedError, PermissionError):
        yield Finding(f"{check} file", SKIPPED, "you may not read it", AS_ROOT)
    except RecursionError:
        finding = "it cannot be used: the value of an option refers to the option itself"
        yield Finding(f"{check} file", FAILED, finding, "correct it")
    except (cfg.Error, OSError, UnicodeDecodeError, StartError) as error:
        if isinstance(error.__cause__, PermissionError):
            yield Finding(f"{check} file", SKIPPED, "you may not read it", AS_ROOT)
        else:
            finding = f"it cannot be used: {one_line(error)}"
            yield Finding(f"{check} file", FAILED, finding, "correct it")
    return Use()


def _sources(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files and the directories of a service."""
    directories = [each for each in given if os.path.isdir(each)]
    files = [each for each in given if each not in directories]
    beside = [f"{each}.d" for each in files if os.path.isdir(f"{each}.d")]
    return files, [*beside, *directories]


def _sections(given: Sequence[str]) -> Sections:
    """Return the text of all options in the files, by section and name.

    Raises:
        StartError: a file cannot be read, see `ConfigFile.read`, or there are too many.
    """
    found: Sections = {}
    files, directories = _sources(given)
    for directory in directories:
        files += files_in(directory)
    if len(files) > MAX_FILES:
        raise StartError(f"there are {len(files)} files, and the limit is {MAX_FILES}")
    for file in files:
        for section, values in ConfigFile.read(file).sections.items():
            normalized = section if section == DEFAULT else section.lower()
            for option, texts in values.items():
                found.setdefault(normalized, {}).setdefault(option, []).extend(texts)
    return found


def _parsed(given: Sequence[str]) -> cfg.ConfigOpts:
    conf = BoundedOpts()
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
    for section, option in urls.READERS:
        conf.register_opt(cfg.MultiStrOpt(option, default=[]), group=section)
    files, directories = _sources(given)
    conf(
        [],
        project="service",
        default_config_files=files,
        default_config_dirs=directories,
        use_env=False,  # not the environment of the service
    )
    return conf


def _examine(
    check: str,
    given: Sequence[str],
    conf: cfg.ConfigOpts,
    sections: Sections,
    sockets: Sockets,
    bounds: Bounds | None,
) -> Generator[Finding, None, Use]:
    names = [each for each in conf[SECTION].driver or conf.notification_driver if each]
    if not conf[SECTION].driver and names:
        yield Finding(
            f"{check} driver",
            WARNING,
            "its drivers are set by [DEFAULT] notification_driver, which new versions of "
            "oslo.messaging ignore",
            f"set driver in [{SECTION}] instead",
        )
    default = _default(conf)
    if default and default.option == OLD_URL:
        yield Finding(
            _name(check, default),
            WARNING,
            f"{default.name} is set, which new versions of oslo.messaging ignore",
            f"set transport_url in [{SECTION}] instead",
        )
    own = urls.own_readers(conf)
    readers = [*own, *urls.other_readers(sections, sockets)]
    if default and not own and _reads_default(given, names, default, sections):
        readers.append(default)
    elif default and (found := consumer.refused(_name(check, default), default, sockets)):
        yield found
    middleware = urls.middleware(sections)
    if (unchecked := max(len(readers), len(middleware)) - urls.MAX_URLS) > 0:
        yield Finding(f"{check} file", SKIPPED, f"it has {unchecked} URLs more than are checked")
    arriving = yield from drivers.examine(
        check,
        drivers.Options(
            names,
            default.url.path if default else None,
            conf[SECTION].sock_path,
            conf[SECTION].ingest_path,
            conf[SECTION].routing_config or conf.routing_notifier_config,
            conf.log_config_append,
        ),
        sockets,
        is_optional=bool(readers or middleware),
    )
    for each in middleware[: urls.MAX_URLS]:
        yield consumer.examine_sender(_name(check, each), each, sockets)
    reads = yield from _readers(check, readers[: urls.MAX_URLS], sockets, bounds)
    notifies = False
    if default and default in readers and not default.url.problem and NOTIFIERS & _programs(given):
        sending = consumer.examine_sender(_name(check, default), default, sockets)
        notifies = sending.result == OK
        yield sending
    yield from _procedure_calls(check, conf, sections, default)
    uses_transport = readers or middleware or set(arriving).intersection(MESSAGING)
    uses_driver = set(arriving).intersection((UNIX, ROUTING))
    groups = {TRANSPORTS: uses_transport, NOTIFY_DRIVERS: uses_driver}
    return Use(
        reads,
        bool(arriving) or notifies,
        frozenset(group for group, used in groups.items() if used),
    )


def _readers(
    check: str, readers: Sequence[Reader], sockets: Sockets, bounds: Bounds | None
) -> Generator[Finding, None, list[str]]:
    """Check the URLs from which a service reads; return the sockets of this relay among them."""
    found = [list(consumer.examine(_name(check, each), each, sockets, bounds)) for each in readers]
    reads = [
        reader.url.path
        for reader, results in zip(readers, found, strict=True)
        if results[0].result == OK
    ]
    for results in found:
        # A service that reads from this relay may read from others as well.
        if reads and destination.is_of_another_relay(results[0]):
            yield Finding(results[0].check, OK, results[0].finding)
        else:
            yield from results
    return reads


def _name(check: str, reader: Reader) -> str:
    return f"{check} {reader.option}"


def _default(conf: cfg.ConfigOpts) -> Reader | None:
    """Return oslo.messaging's own URL for notifications; `None` for that of a broker."""
    for section, option, text in (
        (SECTION, "transport_url", conf[SECTION].transport_url),
        (DEFAULT, OLD_URL, conf.notification_transport_url),
        (DEFAULT, "transport_url", conf.transport_url),
    ):
        if text:
            url = transport_url.parse(text, is_default=True)
            return Reader(section, option, url) if url else None
    return None


def _reads_default(
    given: Sequence[str], names: Sequence[str], default: Reader, sections: Sections
) -> bool:
    """Return whether a service reads from the URL that notifiers and listeners share.

    It does if the query is one for listeners, if the program is a known consumer, or if no driver
    could use the URL of an unknown program.
    """
    programs = _programs(given)
    if default.url.query or any(sections.get(each) for each in CONSUMER_SECTIONS):
        return True
    if {UNIX, ROUTING, *MESSAGING}.intersection(names):
        return bool(CONSUMERS & programs)
    return not PRODUCERS & programs


def _programs(given: Sequence[str]) -> set[str]:
    """Return the first words of the names of the files and of their directories, such as aodh."""
    return {re.split("[-.]", part)[0] for path in given for part in path.split(os.sep)[-2:]}


def _procedure_calls(
    check: str, conf: cfg.ConfigOpts, sections: Sections, default: Reader | None
) -> Iterator[Finding]:
    """Report a URL in place of that of the broker, and listeners that use the broker's."""
    calls = f"[{DEFAULT}] transport_url"
    if transport_url.parse(conf.transport_url):
        finding = f"{calls} is also for remote procedure calls, which the relay does not carry"
        advice = f"name a broker there, and the relay in transport_url in [{SECTION}]"
        if sections.get(BARBICAN):
            return
    elif default and sections.get(BARBICAN):
        finding = f"barbican-keystone-listener reads from {calls}, and not from {default.name}"
        advice = f"set {calls} to the URL, in a file that only barbican-keystone-listener reads"
    elif default and sections.get(MISTRAL):
        finding = f"mistral's event engine reads from {calls}, which must name a broker"
        advice = f"remove {default.name}, and keep driver = messagingv2 in the services"
    else:
        return
    yield Finding(f"{check} transport_url", WARNING, finding, advice)
