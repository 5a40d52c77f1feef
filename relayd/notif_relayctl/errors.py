# SPDX-License-Identifier: Apache-2.0
"""What relayctl ends with when it cannot tell what it was asked."""


class CtlError(Exception):
    """One sentence for the operator: what is wrong, where, and what to do."""

    exit_status = 1


def not_installed(error: ModuleNotFoundError) -> CtlError:
    """What a command says that is the only one to need a module."""
    return CtlError(f"{error.name} is not installed: pip install 'notif-relayd[daemon]'")


class NotRunningError(CtlError):
    """Nobody listens on the control socket."""

    exit_status = 3


class NotAllowedError(CtlError):
    """The control socket is for others."""

    exit_status = 4
