# SPDX-License-Identifier: Apache-2.0
"""Set-up of the log, with a last defence against passwords in it.

Targets log no credentials. Their clients, and the traceback of an unexpected error, might.
"""

import copy
import logging
import os

from oslo_config import cfg
from oslo_log import log

from notif_relay.version import __version__
from notif_relayd_bridge.errors import StartError
from notif_relayd_bridge.redaction import Redaction

STDERR = 2


def set_up_logging(conf: cfg.ConfigOpts, program: str, hide: Redaction) -> None:
    """Configure the loggers; the default destination is standard error.

    Args:
        conf: options of oslo.log.
        program: name of the program.
        hide: removes credentials from each line.

    Raises:
        StartError: the log cannot be written, or its configuration is invalid.
    """
    conf.set_default("use_stderr", True)
    if _is_journal(STDERR):
        for option in ("logging_default_format_string", "logging_context_format_string"):
            conf.set_default(option, "%(levelname)s: %(message)s")
    try:
        log.setup(conf, program, __version__)
    except OSError as error:
        raise StartError(f"cannot write the log {error.filename}: {error.strerror}") from error
    except (log.LogConfigError, TypeError, ValueError) as error:
        raise StartError(f"cannot set up the log: {error}; correct the option") from error
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_RedactingFormatter(handler.formatter, hide))


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
