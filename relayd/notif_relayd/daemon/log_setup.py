# SPDX-License-Identifier: Apache-2.0
"""Set-up of the log: its destination, and errors in its configuration."""

import contextlib
import os
from collections.abc import Iterator

from oslo_config import cfg
from oslo_log import log

from notif_relay.version import __version__
from notif_relayd.errors import StartError
from notif_relayd.settings import PROGRAM

STDERR = 2


def set_up_logging(conf: cfg.ConfigOpts, in_background: bool) -> None:
    """Configure the loggers.

    The default destination is the journal if systemd has connected standard error to it, syslog for
    a process in the background, and standard error otherwise.

    Raises:
        StartError: the log cannot be written, or its configuration is invalid.
    """
    if _stderr_is_the_journal():
        conf.set_default("use_journal", True)
        # The journal has fields of its own for time, process, level and logger.
        for option in ("logging_default_format_string", "logging_context_format_string"):
            conf.set_default(option, "%(message)s")
    elif not in_background:
        conf.set_default("use_stderr", True)
    elif not conf.log_file and not conf.log_dir:
        conf.set_default("use_syslog", True)
    try:
        with logging_errors(conf):
            log.setup(conf, PROGRAM, __version__)
    except OSError as error:
        raise StartError(
            f"cannot write the log: {error.filename}: {error.strerror}; "
            "set log_file or log_dir to a path that the daemon's user can write to"
        ) from error


@contextlib.contextmanager
def logging_errors(conf: cfg.ConfigOpts) -> Iterator[None]:
    """Raise StartError for an error in the file that log_config_append names.

    oslo.log reports only some of them. The classes that the file names raise all others.
    """
    try:
        yield
    except log.LogConfigError as error:
        raise StartError(str(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError, ImportError) as error:
        if not conf.log_config_append:
            raise
        raise StartError(
            f"log_config_append {conf.log_config_append} cannot be used: {error}"
        ) from error


def _stderr_is_the_journal() -> bool:
    # systemd.exec(5), JOURNAL_STREAM: device and inode of the journal's stream.
    try:
        stderr = os.fstat(STDERR)
    except OSError:
        return False  # Standard error is closed.
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"
