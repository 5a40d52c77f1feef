# SPDX-License-Identifier: Apache-2.0
"""Checks a logging file and the path of a log without opening any log.

Opening a log would create its file, possibly for another user than that of the daemon, or truncate
the log of the running daemon.
"""

import configparser
import inspect
import logging
import logging.config
import logging.handlers
import os
import sys
from collections.abc import Mapping
from pkgutil import resolve_name

from notif_relayd.errors import StartError
from notif_relayd.files import check_writable, named_descriptor

_OPEN_LATER = (
    *(logging.FileHandler, logging.handlers.HTTPHandler, logging.handlers.SMTPHandler),
    logging.handlers.SocketHandler,
)
"""Classes of Python, of which an object opens nothing before the first line; a file if `delay` is
set."""


def check_logging_file(path: str) -> None:
    """Check a file in the format of logging.config.fileConfig; reconfigures the loggers.

    Each handler is checked and replaced: one for standard output or standard error by one for
    standard error, any other one by one that does nothing.

    Raises:
        StartError: a handler cannot write its log file.
        Exception: the file has an error.
    """
    logging.config.fileConfig(read_logging_file(path), disable_existing_loggers=False)


def read_logging_file(path: str) -> configparser.ConfigParser:
    """Check a logging file without a change of the loggers; return its content without handlers.

    fileConfig itself closes the handlers of the running daemon and opens new ones before it finds
    all errors.

    Raises:
        StartError: a handler cannot write its log file.
        Exception: the file has an error.
    """
    parser = configparser.ConfigParser()
    with open(path, encoding="utf-8") as lines:
        parser.read_file(lines)
    for name in _names(parser["formatters"]["keys"]):
        _check_formatter(parser[f"formatter_{name}"])
    for name in _names(parser["handlers"]["keys"]):
        _check_handler(parser, parser[f"handler_{name}"])
    for name in _names(parser["loggers"]["keys"]):
        _check_references(parser, parser[f"logger_{name}"], "handlers", "handler")
    return parser


def check_log_path(path: str) -> None:
    """Check that a log file can be written.

    Raises:
        StartError: it cannot; the message is that of a failure to open it.
    """
    try:
        check_writable(path)
    except OSError as error:
        raise log_path_error(path, error.strerror) from error


def log_path_error(path: str, reason: str | None) -> StartError:
    """Return the error for a log file that cannot be opened."""
    return StartError(
        f"cannot write the log: {path}: {reason}; set log_file or log_dir to a path that the "
        "program's user can write to"
    )


def _names(keys: str) -> list[str]:
    return [name for name in map(str.strip, keys.split(",")) if name]


def _check_formatter(section: configparser.SectionProxy) -> None:
    formatter = resolve_name(section.get("class") or "logging.Formatter")
    check_format(
        formatter(
            section.get("format", raw=True, fallback=None),
            section.get("datefmt", raw=True, fallback=None),
            section.get("style", raw=True, fallback="%"),
        )
    )


def check_format(formatter: logging.Formatter | logging.Handler) -> None:
    """Format a log line with a traceback, because a wrong format would lose every line.

    Raises:
        ValueError: the format is wrong.
    """
    line = logging.makeLogRecord(
        {
            "name": __name__,
            "msg": "text",
            "levelno": logging.ERROR,
            "levelname": "ERROR",
            "exc_info": (Exception, Exception(), None),
        }
    )
    try:
        formatter.format(line)
    except Exception as error:
        raise ValueError(f"the format of a log line is wrong: {error!r}") from error


def _check_references(
    parser: configparser.ConfigParser, section: configparser.SectionProxy, option: str, kind: str
) -> None:
    """Check the level in a section, and that the sections exist that an option names."""
    if section.get("level"):
        logging.Logger("").setLevel(section["level"])
    for name in _names(section.get(option, "")):
        if name not in _names(parser[f"{kind}s"]["keys"]):
            raise KeyError(f"{kind}_{name}")


def _check_handler(parser: configparser.ConfigParser, section: configparser.SectionProxy) -> None:
    handler = _handler_class(section["class"])
    # fileConfig evaluates these texts as well.
    args = eval(section.get("args", "()"), vars(logging))  # noqa: S307
    kwargs = eval(section.get("kwargs", "{}"), vars(logging))  # noqa: S307
    bound = inspect.signature(handler).bind(*args, **kwargs)
    if issubclass(handler, logging.FileHandler):
        check_log_path(os.fspath(bound.arguments["filename"]))
        bound.arguments["delay"] = True
    if handler.__module__.startswith("logging") and issubclass(handler, _OPEN_LATER):
        handler(*bound.args, **bound.kwargs).close()
    if issubclass(handler, logging.handlers.MemoryHandler) and section.get("target"):
        parser[f"handler_{section['target']}"]
    _check_references(parser, section, "formatter", "formatter")
    is_standard = _is_standard_stream(handler, bound.arguments)
    section.update(
        {"class": "StreamHandler" if is_standard else "NullHandler", "args": "()", "kwargs": "{}"}
    )


def _is_standard_stream(handler: type[logging.Handler], arguments: Mapping[str, object]) -> bool:
    """Return whether a handler writes to standard output or standard error."""
    if issubclass(handler, logging.FileHandler):
        return named_descriptor(os.fspath(str(arguments["filename"]))) is not None
    stream = arguments.get("stream")
    return issubclass(handler, logging.StreamHandler) and stream in (None, sys.stdout, sys.stderr)


def _handler_class(name: str) -> type[logging.Handler]:
    try:
        found = eval(name, vars(logging))  # noqa: S307
    except (AttributeError, NameError):
        found = resolve_name(name)
    if not (isinstance(found, type) and issubclass(found, logging.Handler)):
        raise TypeError(f"{name} is not a logging handler")
    return found
