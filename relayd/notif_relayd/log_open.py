# SPDX-License-Identifier: Apache-2.0
"""Opens the log of a program as the options of oslo.log say, or checks that it can be opened."""

import contextlib
import logging
import os
from collections.abc import Iterator

from oslo_config import cfg
from oslo_log import log

from notif_relay.version import __version__
from notif_relayd.config_file import check_regular
from notif_relayd.errors import StartError
from notif_relayd.files import STANDARD_OUTPUT, open_node
from notif_relayd.log_check import (
    check_format,
    check_log_path,
    check_logging_file,
    log_path_error,
    read_logging_file,
)


def log_file(conf: cfg.ConfigOpts, program: str) -> str | None:
    """Return the path of the log file, or `None` if the options name no file.

    Raises:
        StartError: it cannot be written.
    """
    if conf.log_config_append or not (conf.log_file or conf.log_dir):
        return None
    if conf.log_file == STANDARD_OUTPUT:
        conf.set_override("log_file", "/dev/stdout")
    # As in oslo.log: the file is in the directory, and its default name is that of the program.
    path = os.path.join(conf.log_dir or "", conf.log_file or f"{program}.log")
    check_log_path(path)
    return path


def open_log(conf: cfg.ConfigOpts, program: str) -> None:
    """Configure the loggers.

    Raises:
        StartError: the log cannot be written, or its configuration is invalid.
    """
    with _held_open(log_file(conf, program)):
        _set_up(conf, program)


def check_log(conf: cfg.ConfigOpts, program: str) -> str | None:
    """Check the log without opening it, and return `log_file`; reconfigures the loggers.

    Raises:
        StartError: the log cannot be written, or its configuration is invalid.
    """
    path = log_file(conf, program)
    if conf.log_config_append:
        check_regular(conf.log_config_append)
        with logging_errors(conf):
            check_logging_file(conf.log_config_append)
        return None
    for option in ("log_file", "log_dir"):
        conf.set_override(option, None)
    _set_up(conf, program)
    return path


@contextlib.contextmanager
def logging_errors(conf: cfg.ConfigOpts) -> Iterator[None]:
    """Raise StartError for an error in the file that log_config_append names.

    oslo.log reports only some of them. The file contains Python expressions and names classes, both
    of which may raise anything.
    """
    try:
        yield
    except log.LogConfigError as error:
        raise StartError(str(error)) from error
    except BaseException as error:
        if not conf.log_config_append or isinstance(error, StartError):
            raise
        raise StartError(
            f"log_config_append {conf.log_config_append} cannot be used: {error!r}; correct the "
            "file"
        ) from error


def _set_up(conf: cfg.ConfigOpts, program: str) -> None:
    try:
        with logging_errors(conf):
            if conf.log_config_append:
                check_regular(conf.log_config_append)
                read_logging_file(conf.log_config_append)  # oslo.log omits the type of an error.
            log.setup(conf, program, __version__)
            for handler in logging.getLogger().handlers:
                check_format(handler)
    except OSError as error:
        raise log_path_error(str(error.filename), error.strerror) from error
    except (TypeError, ValueError) as error:
        raise StartError(f"cannot set up the log: {error}; correct the option") from error


@contextlib.contextmanager
def _held_open(path: str | None) -> Iterator[None]:
    """Context in which opening a FIFO does not wait for a process that reads it.

    Raises:
        StartError: no process reads it.
    """
    try:
        node = open_node(path, wait=False) if path else None
    except OSError as error:
        raise log_path_error(str(path), error.strerror) from error
    try:
        yield
    finally:
        if node is not None:
            os.close(node)
