# SPDX-License-Identifier: Apache-2.0
"""Whether the log driver's notifications reach the relay by a service's logging file.

The file is in the form of logging.config.fileConfig, which executes parts of it. Here nothing of
it is: classes are compared by name, and arguments are taken as far as they are literals. What
fileConfig would stumble over is a mistake here too, as oslo.log then ends the service.

oslo.log resets all loggers before it loads the file, the root logger's level included, and
disables none. So the file alone decides, and all that it leaves out lets everything through.
"""

import ast
import configparser
import inspect
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from notif_relay import RelayHandler
from notif_relay.paths import DEFAULT_INGEST_PATH
from notif_relay.sender import Sender
from notif_relayctl.doctor import destination
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding

NOTIFICATIONS = "oslo.messaging.notification"
"""The log driver's loggers are this one's children, named after event types."""

EXAMPLE = f"{NOTIFICATIONS}.compute.instance.update"

RELAY_HANDLERS = ("notif_relay.RelayHandler", "notif_relay.handler.RelayHandler")

SAMPLE = "/etc/notif-relayd/logging.conf.sample"

PRIORITIES = {"DEBUG": 10, "INFO": 20, "WARN": 30, "ERROR": 40, "CRITICAL": 50}
"""Those that the log driver has a level for."""

LEVELS = {**PRIORITIES, "NOTSET": 0, "TRACE": 5, "WARNING": 30, "FATAL": 50}
"""The names that a file may use; TRACE is oslo.log's."""


class _MistakeError(Exception):
    """What the file cannot be loaded for."""


@dataclass(frozen=True, slots=True)
class _Handler:
    name: str
    kind: str
    """Its class."""
    level: int
    args: str
    kwargs: str

    @property
    def is_relay(self) -> bool:
        return self.kind in RELAY_HANDLERS


@dataclass(frozen=True, slots=True)
class _Logger:
    section: str
    name: str
    """Empty for the root."""
    level: int
    propagates: bool
    handlers: Sequence[_Handler]


def examine(check: str, path: str | None, ingest: str) -> Iterator[Finding]:
    """Say what becomes of notifications by the file that `log_config_append` names."""
    if not path:
        yield Finding(
            check,
            FAILED,
            "notifications go to the service's own log: log_config_append is not set",
            f"set log_config_append in [DEFAULT] to a copy of {SAMPLE}",
        )
        return
    if not os.path.isabs(path):
        yield Finding(
            check,
            WARNING,
            f"log_config_append is {path}, which depends on where the service is started",
            "give the whole path",
        )
        return
    try:
        with open(path, encoding="utf-8") as file:
            loggers = _loggers(file.read())
    except PermissionError:
        yield Finding(check, SKIPPED, f"you may not read {path}", "try it as root")
    except (OSError, ValueError, configparser.Error, _MistakeError) as error:
        said = " ".join((getattr(error, "strerror", None) or str(error)).split())
        yield Finding(check, FAILED, f"the service cannot load {path}: {said}", "mend it")
    else:
        yield from _examine(check, path, loggers, ingest)


def _examine(check: str, path: str, loggers: list[_Logger], ingest: str) -> Iterator[Finding]:
    above = [each for each in loggers if f"{EXAMPLE}.".startswith(each.name and f"{each.name}.")]
    above.sort(key=lambda each: len(each.name), reverse=True)
    silent = next((number for number, each in enumerate(above) if not each.propagates), len(above))
    asked = above[: silent + 1]
    carriers = [each for each in asked if any(handler.is_relay for handler in each.handlers)]
    if not carriers:
        yield _unreached(check, path, loggers)
        return
    deciding = next((each for each in above if each.level), None)
    relays = [(each, handler) for each in carriers for handler in each.handlers if handler.is_relay]
    for _, handler in relays:
        yield from _handler(check, handler, deciding, ingest)
    yield from _elsewhere(check, asked, carriers)
    if len(relays) > 1:
        yield Finding(
            check,
            WARNING,
            f"notifications reach the relay {len(relays)} times, by the handlers "
            f"{', '.join(f'{handler.name} of [{each.section}]' for each, handler in relays)}",
            "keep one of them",
        )


def _unreached(check: str, path: str, loggers: list[_Logger]) -> Finding:
    elsewhere = [each for each in loggers if any(handler.is_relay for handler in each.handlers)]
    if elsewhere:
        return Finding(
            check,
            FAILED,
            f"in {path} the relay's handler is on the logger {elsewhere[0].name or 'root'}, which "
            f"no notification gets to",
            f"set qualname = {NOTIFICATIONS} in [{elsewhere[0].section}]",
        )
    return Finding(
        check,
        FAILED,
        f"in {path} no logger that notifications get to has a handler of the class "
        f"{RELAY_HANDLERS[0]}",
        f"add the handler and the logger {NOTIFICATIONS} as in {SAMPLE}",
    )


def _handler(
    check: str, handler: _Handler, deciding: _Logger | None, ingest: str
) -> Iterator[Finding]:
    section = f"[handler_{handler.name}]"
    try:
        args, kwargs = (ast.literal_eval(each.strip()) for each in (handler.args, handler.kwargs))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        yield Finding(
            check,
            WARNING,
            f"{section} computes its arguments, which is not followed here: {handler.args}",
            f'write args = ("{ingest}",)',
        )
        return
    try:
        if not isinstance(args, tuple | list):
            raise TypeError("args is no tuple, which has a comma at its end")
        bound = inspect.signature(RelayHandler).bind(*args, **kwargs)
        Sender(*bound.args, **bound.kwargs)  # refuses what the handler would, and connects not yet
    except (TypeError, ValueError) as error:
        finding = f"{section} has args = {handler.args}: {error}"
        yield Finding(check, FAILED, finding, f'write args = ("{ingest}",)')
        return
    path = bound.arguments.get("path", DEFAULT_INGEST_PATH)
    arrives = destination.examine(
        check, f"the handler {handler.name}", path, ingest, f"args in {section}"
    )
    yield arrives
    if arrives.result == OK:
        yield from _levels(check, handler, deciding)


def _levels(check: str, handler: _Handler, deciding: _Logger | None) -> Iterator[Finding]:
    for section, level in (
        *([(deciding.section, deciding.level)] if deciding else []),
        (f"handler_{handler.name}", handler.level),
    ):
        lost = [name for name, each in PRIORITIES.items() if each < level]
        if lost:
            yield Finding(
                check,
                FAILED if "INFO" in lost else WARNING,
                f"notifications of priority {' and '.join(lost)} are lost: the level of "
                f"[{section}] is above",
                f"set level = DEBUG in [{section}]",
            )


def _elsewhere(check: str, asked: list[_Logger], carriers: list[_Logger]) -> Iterator[Finding]:
    """Where notifications go that somebody has perhaps not thought of."""
    carrier = carriers[0]
    if not carrier.name:
        yield Finding(
            check,
            WARNING,
            f"the relay's handler is on [{carrier.section}]: all that the service logs goes to "
            f"the relay, which rejects what is no notification",
            f"put it on a logger of its own, {NOTIFICATIONS}, as in {SAMPLE}",
        )
    others = [
        f"{handler.name} of [{each.section}]"
        for each in asked[asked.index(carrier) + 1 :]
        for handler in each.handlers
        if not handler.is_relay
    ]
    if others:
        yield Finding(
            check,
            WARNING,
            f"notifications go to the handlers {', '.join(others)} as well, and so mostly into "
            f"the service's log",
            f"set propagate = 0 in [{carrier.section}]",
        )


def _loggers(text: str) -> list[_Logger]:
    """What the file configures.

    Raises:
        configparser.Error: it has not the form.
        _MistakeError: something is missing, or has no meaning.
    """
    parser = configparser.ConfigParser()
    parser.read_string(text)
    try:
        formatters = [name for name, _ in _listed(parser, "formatter")]
        handlers = {
            name: _Handler(
                name,
                _known(section["class"]),
                _level(section.get("level")),
                section.get("args", "()"),
                section.get("kwargs", "{}"),
            )
            for name, section in _listed(parser, "handler")
            if section.get("formatter", "") in ("", *formatters) or _complain(section)
        }
        loggers = dict(_listed(parser, "logger"))
        if "root" not in loggers:
            raise _MistakeError("keys in [loggers] does not list root")
        return [
            _Logger(
                section.name,
                "" if name == "root" else section["qualname"],
                _level(section.get("level")),
                name == "root" or section.getint("propagate", fallback=1) != 0,
                [handlers[each] for each in _words(section["handlers"])],
            )
            for name, section in loggers.items()
        ]
    except KeyError as error:
        raise _MistakeError(f"it has no {error.args[0]!r}, which is asked for") from None
    except ValueError as error:
        raise _MistakeError(str(error)) from None


def _listed(
    parser: configparser.ConfigParser, kind: str
) -> Iterator[tuple[str, configparser.SectionProxy]]:
    for name in _words(parser[f"{kind}s"]["keys"]):
        yield name, parser[f"{kind}_{name}"]


def _words(text: str) -> list[str]:
    return [each.strip() for each in text.split(",")] if text else []


def _level(name: str | None) -> int:
    if name is None:
        return 0
    if name not in LEVELS:
        raise _MistakeError(f"there is no level {name!r}")
    return LEVELS[name]


def _known(kind: str) -> str:
    """The class, unless the library is meant and has no such class."""
    if kind.startswith("notif_relay.") and kind not in RELAY_HANDLERS:
        raise _MistakeError(f"there is no class {kind}, but {RELAY_HANDLERS[0]}")
    return kind


def _complain(section: configparser.SectionProxy) -> bool:
    raise _MistakeError(f"[{section.name}] has a formatter that [formatters] does not list")
