# SPDX-License-Identifier: Apache-2.0
"""Set-up of the log: its destination, and errors in its configuration."""

import contextlib
import os
from collections.abc import Iterator

from oslo_config import cfg
from oslo_log import log

try:
    from systemd import journal
except ImportError:
    journal = None  # oslo.log cannot use the journal either

from notif_relay.version import __version__
from notif_relayd.daemon.log_check import check_log_path, check_logging_file, log_path_error
from notif_relayd.errors import StartError
from notif_relayd.settings import PROGRAM

STDERR = 2


def set_up_logging(conf: cfg.ConfigOpts, in_background: bool) -> None:
    """Configure the loggers.

    The default destination is the journal if systemd has connected standard error to it and
    systemd-python is installed, syslog for a process in the background, and standard error
    otherwise.

    Raises:
        StartError: the log cannot be written, or its configuration is invalid.
    """
    if journal and _stderr_is_the_journal():
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
        raise log_path_error(str(error.filename), error.strerror) from error


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
    except (Exception, SystemExit) as error:
        if not conf.log_config_append or isinstance(error, StartError):
            raise
        raise StartError(
            f"log_config_append {conf.log_config_append} cannot be used: {error!r}; correct the "
            "file"
        ) from error


def check_logging(conf: cfg.ConfigOpts) -> None:
    """Check the options of the log without opening it; reconfigures the loggers.

    Raises:
        StartError: the log cannot be written, or the file in log_config_append is invalid.
    """
    if conf.log_config_append:
        with logging_errors(conf):
            check_logging_file(conf.log_config_append)
    elif conf.log_file or conf.log_dir:
        # As in oslo.log: the file is in the directory, and its default name is that of the program.
        check_log_path(os.path.join(conf.log_dir or "", conf.log_file or f"{PROGRAM}.log"))


def _stderr_is_the_journal() -> bool:
    # systemd.exec(5), JOURNAL_STREAM: device and inode of the journal's stream.
    try:
        stderr = os.fstat(STDERR)
    except OSError:
        return False  # Standard error is closed.
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"
