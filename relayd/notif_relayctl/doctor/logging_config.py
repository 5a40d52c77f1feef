# SPDX-License-Identifier: Apache-2.0
"""Parser for a logging file in the format of logging.config.fileConfig.

The standard library cannot parse such a file without loading it: fileConfig passes class, args and
kwargs of each handler to eval(). The file belongs to a service and the doctor may run as root, so
this parser evaluates nothing. It rejects what fileConfig rejects, since oslo.log then ends the
service.
"""

import configparser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

RELAY_HANDLERS = ("notif_relay.RelayHandler", "notif_relay.handler.RelayHandler")
"""Names of the library's handler."""

PRIORITIES = {"DEBUG": 10, "INFO": 20, "WARN": 30, "ERROR": 40, "CRITICAL": 50}
"""Log levels of the priorities for which the log driver has a level."""

LEVELS = {**PRIORITIES, "NOTSET": 0, "TRACE": 5, "WARNING": 30, "FATAL": 50}
"""Log levels that a file may name; oslo.log defines TRACE."""


class InvalidFileError(Exception):
    """fileConfig cannot load the file; the message states the reason."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler section. `args` and `kwargs` are Python expressions."""

    name: str
    class_name: str
    level: int
    args: str
    kwargs: str

    @property
    def section(self) -> str:
        """Name of the section."""
        return f"handler_{self.name}"

    @property
    def is_relay(self) -> bool:
        """Whether this is the library's handler."""
        return self.class_name in RELAY_HANDLERS


@dataclass(frozen=True, slots=True)
class Logger:
    """A logger section."""

    section: str
    name: str
    """Empty for the root logger."""
    level: int
    propagates: bool
    handlers: Sequence[Handler]

    @property
    def relay_handlers(self) -> list[Handler]:
        """The handlers of the logger that send to a relay."""
        return [handler for handler in self.handlers if handler.is_relay]


def parse(text: str) -> list[Logger]:
    """Return the loggers that the file configures.

    Raises:
        configparser.Error: the text is not an INI file.
        InvalidFileError: a section or key is missing or has an invalid value.
    """
    parser = configparser.ConfigParser()
    parser.read_string(text)
    try:
        formatters = [name for name, _ in _sections(parser, "formatter")]
        handlers = {
            name: _handler(name, section, formatters)
            for name, section in _sections(parser, "handler")
        }
        loggers = dict(_sections(parser, "logger"))
        if "root" not in loggers:
            raise InvalidFileError("keys in [loggers] does not list root")
        return [
            Logger(
                section.name,
                "" if name == "root" else section["qualname"],
                _level(section.get("level")),
                name == "root" or section.getint("propagate", fallback=1) != 0,
                [handlers[each] for each in _names(section["handlers"])],
            )
            for name, section in loggers.items()
        ]
    except KeyError as error:
        raise InvalidFileError(f"{error.args[0]!r} is required, but missing") from None
    except ValueError as error:
        raise InvalidFileError(str(error)) from None


def _handler(name: str, section: configparser.SectionProxy, formatters: Sequence[str]) -> Handler:
    class_name = section["class"]
    if class_name.startswith("notif_relay.") and class_name not in RELAY_HANDLERS:
        raise InvalidFileError(f"the class {class_name} does not exist; use {RELAY_HANDLERS[0]}")
    if section.get("formatter", "") not in ("", *formatters):
        raise InvalidFileError(f"[{section.name}] has a formatter that [formatters] does not list")
    return Handler(
        name,
        class_name,
        _level(section.get("level")),
        section.get("args", "()"),
        section.get("kwargs", "{}"),
    )


def _sections(
    parser: configparser.ConfigParser, kind: str
) -> Iterator[tuple[str, configparser.SectionProxy]]:
    for name in _names(parser[f"{kind}s"]["keys"]):
        yield name, parser[f"{kind}_{name}"]


def _names(text: str) -> list[str]:
    return [each.strip() for each in text.split(",")] if text else []


def _level(name: str | None) -> int:
    if name is None:
        return 0
    if name not in LEVELS:
        raise InvalidFileError(f"the level {name!r} does not exist")
    return LEVELS[name]
