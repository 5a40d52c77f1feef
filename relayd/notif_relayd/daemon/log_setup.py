# SPDX-License-Identifier: Apache-2.0
"""Set-up of the log: its destination, and errors in its configuration."""

import contextlib
import logging
import os
import socket
import sys
from logging.handlers import SysLogHandler

from oslo_config import cfg

try:
    from systemd import journal
except ImportError:
    journal = None  # oslo.log cannot use the journal either

from notif_relayd.daemon.log_queue import all_loggers
from notif_relayd.errors import StartError
from notif_relayd.files import named_descriptor
from notif_relayd.log_open import check_log, open_log
from notif_relayd.settings import PROGRAM
from notif_relayd.stdio import STDERR, STDOUT, was_closed

SOCKETS = {"use_syslog": "/dev/log", "use_journal": "/run/systemd/journal/socket"}
"""Options of the log, and the sockets to which they make the daemon write."""


def set_up_logging(conf: cfg.ConfigOpts, in_background: bool) -> None:
    """Configure the loggers.

    The default destination is the journal if systemd has connected standard error to it and
    systemd-python is installed, syslog for a process in the background, and standard error
    otherwise, or standard output if that is closed.

    Raises:
        StartError: the log cannot be written, or its configuration is invalid.
    """
    _set_destination(conf, in_background)
    open_log(conf, PROGRAM)
    if in_background:
        check_background_log(conf)


def warn_about_lost_log(conf: cfg.ConfigOpts) -> None:
    """Report on standard error that no process reads the log; the libraries ignore it."""
    if conf.log_config_append:
        origin, remedy = os.path.basename(conf.log_config_append), "add another handler"
        # In the foreground, the handlers are wrapped by now, and failures appear on standard error.
        sockets = [
            (origin, handler.address)
            for handler in _own_handlers()
            if isinstance(handler, SysLogHandler) and isinstance(handler.address, str)
        ]
    else:
        remedy = "set log_file"
        sockets = [(option, path) for option, path in SOCKETS.items() if conf[option]]
    for origin, path in sockets:
        if not _has_reader(path):
            with contextlib.suppress(OSError):
                sys.stderr.write(
                    f"{PROGRAM}: warning: no process reads {path}: log lines for it ({origin}) are "
                    f"lost until one does; {remedy} to keep them\n"
                )


def check_background_log(conf: cfg.ConfigOpts) -> None:
    """Check that the log of a process in the background does not go to standard error only.

    Raises:
        StartError: it does.
    """
    if all(map(_writes_to_standard_stream, _own_handlers())):
        raise StartError(
            "the log would be lost, because --daemonize closes standard output and standard error: "
            f"set log_file, or add another handler to {conf.log_config_append or 'a logging file'}"
        )


def is_journal(fd: int) -> bool:
    """Return whether systemd has connected a descriptor to the journal."""
    # systemd.exec(5), JOURNAL_STREAM: device and inode of the journal's stream.
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def check_logging(conf: cfg.ConfigOpts, in_background: bool) -> None:
    """Check the options of the log without opening it; reconfigures the loggers.

    Raises:
        StartError: the log cannot be written, or the file in log_config_append is invalid.
    """
    _set_destination(conf, in_background)
    path = check_log(conf, PROGRAM)
    if in_background and (path is None or named_descriptor(path) is not None):
        check_background_log(conf)


def _set_destination(conf: cfg.ConfigOpts, in_background: bool) -> None:
    """Set the default destination of the log."""
    if conf.log_config_append:
        return
    if journal and is_journal(STDERR) and _has_reader(SOCKETS["use_journal"]):
        conf.set_default("use_journal", True)
        # The journal has fields of its own for time, process, level and logger.
        for option in ("logging_default_format_string", "logging_context_format_string"):
            conf.set_default(option, "%(message)s")
    elif not in_background and not was_closed(STDERR):
        conf.set_default("use_stderr", True)
    elif not (conf.log_file or conf.log_dir or conf.use_journal):
        # If standard error is closed, the default of oslo.log is standard output.
        conf.set_default("use_syslog", in_background or was_closed(STDOUT))


def _own_handlers() -> list[logging.Handler]:
    """Return the handlers of the daemon's log; those of libraries may discard everything."""
    return [
        handler
        for logger in all_loggers()
        if logger.name.partition(".")[0] in ("root", "notif_relayd")
        for handler in logger.handlers
    ]


def _writes_to_standard_stream(handler: logging.Handler) -> bool:
    if isinstance(handler, logging.FileHandler):
        return named_descriptor(handler.baseFilename) is not None
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)


def _has_reader(path: str) -> bool:
    """Return whether a process reads a socket."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as probe, contextlib.suppress(OSError):
            probe.setblocking(False)
            probe.connect(path)
            return True
    return False
