# SPDX-License-Identifier: Apache-2.0
"""Set-up of the log, with a last defence against passwords in it.

Targets log no credentials. Their clients, and the traceback of an unexpected error, might.
"""

import copy
import logging
import os

from oslo_config import cfg

from notif_relayd.log_open import check_log, open_log
from notif_relayd.stdio import STDERR, STDOUT, was_closed
from notif_relayd_bridge.redaction import Redaction


def set_up_logging(conf: cfg.ConfigOpts, program: str, hide: Redaction) -> None:
    """Configure the loggers.

    The default destination is standard error, or standard output if that is closed, or syslog if
    both are.

    Args:
        conf: options of oslo.log.
        program: name of the program.
        hide: removes credentials from each line.

    Raises:
        StartError: the log cannot be written, or its configuration is invalid.
    """
    _set_defaults(conf)
    open_log(conf, program)
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for handler in {each for logger in loggers for each in getattr(logger, "handlers", ())}:
        handler.setFormatter(_RedactingFormatter(handler.formatter, hide))


def check_logging(conf: cfg.ConfigOpts, program: str) -> None:
    """Check the log without opening it; reconfigures the loggers.

    Raises:
        StartError: the log cannot be written, or its configuration is invalid.
    """
    _set_defaults(conf)
    check_log(conf, program)


def _set_defaults(conf: cfg.ConfigOpts) -> None:
    if not was_closed(STDERR):
        conf.set_default("use_stderr", True)
    elif was_closed(STDOUT):  # Otherwise, the default of oslo.log is standard output.
        conf.set_default("use_syslog", not (conf.log_file or conf.log_dir or conf.use_journal))
    if _is_journal(STDERR):
        for option in ("logging_default_format_string", "logging_context_format_string"):
            conf.set_default(option, "%(levelname)s: %(message)s")


class _RedactingFormatter(logging.Formatter):
    def __init__(self, formatter: logging.Formatter | None, hide: Redaction) -> None:
        super().__init__()
        self._formatter = formatter or logging.Formatter()
        self._hide = hide

    def format(self, record: logging.LogRecord) -> str:
        if not record.exc_info and record.levelno > logging.INFO:
            # oslo.log appends the error that is being handled to warnings and errors. The messages
            # contain what is of use of it; the remainder may be long, and chosen by a peer.
            record = copy.copy(record)
            record.levelno = logging.INFO
        return self._hide(self._formatter.format(record))


def _is_journal(fd: int) -> bool:
    # systemd.exec(5), JOURNAL_STREAM: device and inode of the journal's stream.
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
