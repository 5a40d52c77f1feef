# SPDX-License-Identifier: Apache-2.0
"""Check whether a service's logging file sends the log driver's notifications to the relay.

Nothing of the file is executed: class names are compared, and arguments are evaluated only if they
are literals.

Before oslo.log loads the file, it resets all loggers, including the level of the root logger, and
disables none. Therefore the file alone decides, and everything that it does not set lets
notifications pass.
"""

import ast
import configparser
import inspect
import os
from collections.abc import Iterator, Sequence
from typing import Any

from notif_relay import RelayHandler
from notif_relay.paths import DEFAULT_INGEST_PATH
from notif_relay.sender import Sender
from notif_relayctl.access import AS_ROOT
from notif_relayctl.doctor import destination, logging_config
from notif_relayctl.doctor.destination import Sockets
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayctl.doctor.logging_config import PRIORITIES, RELAY_HANDLERS, Handler, Logger
from notif_relayd.config_file import check_regular
from notif_relayd.errors import StartError, one_line

NOTIFICATIONS = "oslo.messaging.notification"
"""The log driver's loggers are children of this logger, named by event type."""

EXAMPLE = f"{NOTIFICATIONS}.compute.instance.update"

SAMPLE = "/etc/notif-relayd/logging.conf.sample"


class _ArgumentError(Exception):
    """The handler does not accept its arguments."""


def read(check: str, path: str) -> list[Logger] | Finding:
    """Return the loggers that a logging file configures, or a finding if it cannot be examined.

    Args:
        check: name of the check.
        path: the value of `log_config_append`.
    """
    if not os.path.isabs(path):
        return Finding(
            check,
            WARNING,
            f"log_config_append is {path}, which depends on the service's working directory",
            "set it to an absolute path",
        )
    try:
        if os.path.exists(path) and not os.path.isdir(path):
            check_regular(path)
        with open(path, encoding="utf-8") as file:
            return logging_config.parse(file.read())
    except PermissionError:
        return Finding(check, SKIPPED, f"you may not read {path}", AS_ROOT)
    except StartError as error:
        return Finding(check, FAILED, one_line(error), "correct it")
    except (OSError, ValueError, configparser.Error, logging_config.InvalidFileError) as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        return Finding(check, FAILED, f"the service cannot load {path}: {reason}", "correct it")


def relay_handlers(loggers: Sequence[Logger]) -> list[tuple[Logger, Handler]]:
    """Return the relay's handlers that get notifications, each with its logger."""
    return [(each, handler) for each in _reached(loggers) for handler in each.relay_handlers]


def examine(
    check: str, path: str, loggers: Sequence[Logger], sockets: Sockets
) -> Iterator[Finding]:
    """Check where a logging file sends notifications.

    Args:
        check: name of the check.
        path: the file.
        loggers: what it configures.
        sockets: the sockets of the relay.
    """
    relays = relay_handlers(loggers)
    if not relays:
        yield _unreached(check, path, loggers)
        return
    # The level of a logger is that of the nearest ancestor that sets one.
    deciding = next((each for each in _ancestors(loggers) if each.level), None)
    for _, handler in relays:
        yield from _handler(check, handler, deciding, sockets)
    yield from _other_output(check, _reached(loggers), relays[0][0])
    if len(relays) > 1:
        yield Finding(
            check,
            WARNING,
            f"notifications reach the relay {len(relays)} times, by the handlers "
            f"{', '.join(f'{handler.name} of [{each.section}]' for each, handler in relays)}",
            "keep one of them",
        )


def _ancestors(loggers: Sequence[Logger]) -> list[Logger]:
    """Return the loggers above those of notifications, the nearest first."""
    ancestors = [
        each for each in loggers if f"{EXAMPLE}.".startswith(each.name and f"{each.name}.")
    ]
    return sorted(ancestors, key=lambda each: len(each.name), reverse=True)


def _reached(loggers: Sequence[Logger]) -> list[Logger]:
    """Return the loggers whose handlers get notifications."""
    ancestors = _ancestors(loggers)
    last = next(
        (number for number, each in enumerate(ancestors) if not each.propagates), len(ancestors)
    )
    return ancestors[: last + 1]


def _unreached(check: str, path: str, loggers: Sequence[Logger]) -> Finding:
    for each in loggers:
        if each.relay_handlers:
            return Finding(
                check,
                FAILED,
                f"in {path}, the relay's handler is on the logger {each.name or 'root'}, which "
                f"receives no notifications",
                f"set qualname = {NOTIFICATIONS} in [{each.section}]",
            )
    return Finding(
        check,
        FAILED,
        f"in {path}, no logger that receives notifications has a handler of the class "
        f"{RELAY_HANDLERS[0]}",
        f"add the handler and the logger {NOTIFICATIONS} as in {SAMPLE}",
    )


def _handler(
    check: str, handler: Handler, deciding: Logger | None, sockets: Sockets
) -> Iterator[Finding]:
    advice = _arguments_advice(sockets)
    try:
        arguments = _arguments(handler)
    except (ValueError, MemoryError, RecursionError):
        yield Finding(
            check,
            WARNING,
            f"[{handler.section}] computes its arguments, which cannot be checked: {handler.args}",
            advice,
        )
        return
    except _ArgumentError as error:
        yield _refused(check, handler, error, advice)
        return
    path = arguments.get("path", DEFAULT_INGEST_PATH)
    arrives = destination.examine(
        check,
        f"the handler {handler.name}",
        path,
        sockets,
        f'set args in [{handler.section}] to ("{sockets.ingest[0]}",)',
    )
    yield arrives
    if arrives.result == OK:
        yield from _levels(check, handler, deciding)


def _arguments_advice(sockets: Sockets) -> str:
    return f'write args = ("{sockets.ingest[0]}",)'


def _refused(check: str, handler: Handler, error: _ArgumentError, advice: str) -> Finding:
    finding = f"[{handler.section}] has args = {handler.args}: {error}"
    return Finding(check, FAILED, finding, advice)


def fatal(check: str, loggers: Sequence[Logger], sockets: Sockets) -> Finding | None:
    """Return a finding if the relay's handler refuses its arguments, which ends the service.

    Args:
        check: name of the check.
        loggers: what a logging file configures.
        sockets: the sockets of the relay.
    """
    for logger in loggers:
        for handler in logger.relay_handlers:
            try:
                _arguments(handler)
            except _ArgumentError as error:
                return _refused(check, handler, error, _arguments_advice(sockets))
            except (ValueError, MemoryError, RecursionError):
                continue  # `examine` reports it.
    return None


def _arguments(handler: Handler) -> dict[str, Any]:
    """Return the arguments of the handler by name.

    Raises:
        _ArgumentError: the handler does not accept the arguments.
        ValueError, MemoryError, RecursionError: an argument is not a literal.
    """
    try:
        args, kwargs = (ast.literal_eval(each.strip()) for each in (handler.args, handler.kwargs))
    except SyntaxError as error:
        raise _ArgumentError(error.msg) from None
    except TypeError as error:  # a literal with an impossible value, for example {[]: 1}
        raise ValueError(str(error)) from None
    try:
        if not isinstance(args, tuple | list):
            raise TypeError("args is not a tuple; add a comma at its end")
        bound = inspect.signature(RelayHandler).bind(*args, **kwargs)
        Sender(*bound.args, **bound.kwargs)  # It checks the values and does not connect.
    except (TypeError, ValueError) as error:
        raise _ArgumentError(str(error)) from None
    return bound.arguments


def _levels(check: str, handler: Handler, deciding: Logger | None) -> Iterator[Finding]:
    for section, level in (
        *([(deciding.section, deciding.level)] if deciding else []),
        (handler.section, handler.level),
    ):
        lost = [name for name, each in PRIORITIES.items() if each < level]
        if lost:
            yield Finding(
                check,
                FAILED if "INFO" in lost else WARNING,
                f"notifications of priority {' and '.join(lost)} are lost: the level of "
                f"[{section}] is higher",
                f"set level = DEBUG in [{section}]",
            )


def _other_output(check: str, reached: list[Logger], carrier: Logger) -> Iterator[Finding]:
    """Report other records that go to the relay, and other handlers that get notifications.

    Args:
        check: name of the check.
        reached: the loggers that receive notifications.
        carrier: the first of them that has the relay's handler.
    """
    if not carrier.name:
        yield Finding(
            check,
            WARNING,
            f"the relay's handler is on [{carrier.section}]: the whole log of the service goes to "
            f"the relay, which rejects everything that is not a notification",
            f"move it to a separate logger, {NOTIFICATIONS}, as in {SAMPLE}",
        )
    others = [
        f"{handler.name} of [{each.section}]"
        for each in reached[reached.index(carrier) + 1 :]
        for handler in each.handlers
        if not handler.is_relay
    ]
    if others:
        yield Finding(
            check,
            WARNING,
            f"notifications also go to the handlers {', '.join(others)}, which usually write the "
            f"service's log",
            f"set propagate = 0 in [{carrier.section}]",
        )
