# SPDX-License-Identifier: Apache-2.0
"""Errors that end a command. Each has its own exit status."""

from notif_relayd.requirements import not_installed


class CtlError(Exception):
    """The command has failed; the message states what is wrong, where, and what to do."""

    exit_status = 1


class NotRunningError(CtlError):
    """No process listens on the socket."""

    exit_status = 3


class NotAllowedError(CtlError):
    """This user may not connect to the socket."""

    exit_status = 4


def missing_package(error: ModuleNotFoundError) -> CtlError:
    """Return the error for a package that only one command requires and that is not installed."""
    return CtlError(not_installed(error))
