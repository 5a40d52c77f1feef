# SPDX-License-Identifier: Apache-2.0
"""Parses the command line and the configuration files, at the start and on each reload.

A reload first parses everything with new objects of oslo.config, as a start would. Only a
configuration with which the daemon could start changes the options of the running daemon.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from oslo_config import cfg
from oslo_log import log

from notif_relayd.config_file import BoundedOpts, check_regular, reference_limit
from notif_relayd.daemon import options
from notif_relayd.daemon.config_files import (
    Origins,
    check,
    check_environment,
    log_options,
    split,
)
from notif_relayd.daemon.log_setup import check_background_log
from notif_relayd.daemon.socket_options import check_owners
from notif_relayd.errors import StartError, one_line, see_help, usage_errors
from notif_relayd.log_check import read_logging_file
from notif_relayd.log_open import logging_errors
from notif_relayd.settings import DEFAULT, PROGRAM, RELAYD, Limits, NameOption

MAX_NUMBER = 2**53 - 1
"""Maximum of each integer, so that the control socket, the saved state and C code can hold it."""

INFORMATION = {"--help", "-h", "--version"}
"""Options that work even if the configuration has an error."""


class Configuration:
    """The command line, and the files that it or the defaults name.

    Args:
        arguments: the command line without the name of the program.
        version: printed by ``--version``.

    Raises:
        StartError: an option for configuration files is incomplete.
    """

    def __init__(self, arguments: Sequence[str], version: str) -> None:
        self._sources, self._arguments = split(arguments)
        self._directory = _working_directory()
        self._version = version
        self._conf = BoundedOpts()
        options.register(self._conf)
        log.register_options(self._conf)

    @property
    def conf(self) -> cfg.ConfigOpts:
        """The options of the running daemon."""
        return self._conf

    def load(self) -> options.Settings:
        """Parse the configuration when the daemon starts, and return the settings.

        Raises:
            StartError: the configuration is invalid.
            SystemExit: an option such as ``--help`` has been handled.
        """
        if INFORMATION.intersection(self._arguments):
            self._parse(self._conf, [])
        check_environment()
        files = self._sources.files()
        origins = check(files, self._arguments)
        self._parse(self._conf, files)
        return _settings(self._conf, origins)

    def read_again(self, running: Limits) -> Limits:
        """Parse the configuration again and return its limits, without a change of any option.

        Relative paths refer to the working directory at the start.

        Args:
            running: the limits of the running daemon.

        Raises:
            StartError: the configuration is invalid.
        """
        with _working_in(self._directory):
            files = self._sources.files()
            origins = check(files, self._arguments)
            new = BoundedOpts()
            options.register(new)
            # log.register_options would make the formatters of the running daemon use `new`.
            for group, opts in log_options():
                new.register_cli_opts(opts, group=group)
            self._parse(new, files)
            limits = _settings(new, origins).limits
            if new.log_config_append:
                with logging_errors(new):
                    read_logging_file(new.log_config_append)
        # A change of max_record_size needs a restart. Until then, the ring must hold a record of
        # the previous maximum size.
        return replace(
            limits,
            max_record_size=running.max_record_size,
            ring_size=max(limits.ring_size, running.max_record_size),
        )

    def apply_logging(self) -> None:
        """Apply the logging options after `read_again`.

        Raises:
            StartError: the logging file has an error; the caller restores the loggers.
        """
        with _working_in(self._directory):
            self._conf.default_config_files = self._sources.files()
            # Without _usage_errors: a new handler would keep its replacement of sys.stderr.
            with _configuration_errors(), logging_errors(self._conf):
                self._conf.mutate_config_files()
        if self._conf.daemonize:
            check_background_log(self._conf)
        if not self._conf.log_config_append:
            # oslo.log does so only if the value differs from that of the last reload, which may
            # have failed.
            logging.getLogger().setLevel(logging.DEBUG if self._conf.debug else logging.INFO)

    def _parse(self, conf: cfg.ConfigOpts, files: list[str]) -> None:
        with _configuration_errors(), self._usage_errors(conf):
            conf(
                self._arguments,
                project=PROGRAM,
                prog=PROGRAM,
                version=self._version,
                description="Relays notifications from the private socket to all subscribers.",
                default_config_files=files,
                default_config_dirs=[],
            )

    def _usage_errors(self, conf: cfg.ConfigOpts) -> contextlib.AbstractContextManager[None]:
        return usage_errors(
            lambda message: StartError(see_help(message, PROGRAM)), self._arguments, conf.print_help
        )


def _settings(conf: cfg.ConfigOpts, origins: Origins) -> options.Settings:
    with _configuration_errors():
        _check_numbers(conf, origins)
        _check_log_levels(conf, origins)
        settings = options.settings(conf, origins)
        check_owners(settings.plans, origins)
        log_config = conf.log_config_append
    if log_config:
        check_regular(log_config)
    origins.check_rules(conf[RELAYD].access_rules)
    return settings


def _check_numbers(conf: cfg.ConfigOpts, name: NameOption) -> None:
    """Check the integers of the daemon; oslo.config turns an empty text into `None`."""
    for group, opts in options.list_opts():
        for opt in opts:
            if group == RELAYD and isinstance(opt, cfg.IntOpt):
                value = conf[group][opt.dest]
                if value is None or value > MAX_NUMBER:
                    reason = "no value" if value is None else f"more than {MAX_NUMBER}"
                    raise StartError(
                        f"{name(group, opt.dest)}: {reason}; set a number or remove the option"
                    )


def _check_log_levels(conf: cfg.ConfigOpts, name: NameOption) -> None:
    for each in conf.default_log_levels:
        try:
            logging.Logger("").setLevel(each.partition("=")[2])
        except ValueError as error:
            raise StartError(
                f"{name(DEFAULT, 'default_log_levels')}: {each!r}: {error}; set "
                "LOGGER=LEVEL, with a level such as INFO"
            ) from None


@contextlib.contextmanager
def _configuration_errors() -> Iterator[None]:
    """Turn each error that oslo.config raises for an invalid configuration into `StartError`."""
    try:
        yield
    except RecursionError:
        raise StartError("the values of some options refer to each other: correct them") from None
    except (cfg.Error, OSError, ValueError) as error:
        raise StartError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Return the message for an error of oslo.config."""
    if (limit := reference_limit(error)) is not None:
        return f"the configuration has {limit}: correct the values"
    if isinstance(error, cfg.ConfigSourceValueError):
        # The values in files have been checked, and argparse has checked the command line.
        name = str(error).removeprefix("Value for option ").partition(" ")[0]
        reason = one_line(error).rpartition("is not valid: ")[2]
        return (
            f"the value of {name} in the environment is invalid: {reason}; correct the variable "
            f"OS_…__{name.upper()}"
        )
    return one_line(error)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # It has been removed.
        return "/"


@contextlib.contextmanager
def _working_in(directory: str) -> Iterator[None]:
    """Context with another working directory; a daemon in the background has ``/``."""
    before = _working_directory()
    try:
        os.chdir(directory)
    except OSError as error:
        raise StartError(
            f"cannot change to {directory}, to which paths in the configuration are relative: "
            f"{error.strerror}; create it"
        ) from error
    try:
        yield
    finally:
        os.chdir(before)
