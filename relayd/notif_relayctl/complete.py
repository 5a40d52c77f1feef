# SPDX-License-Identifier: Apache-2.0
"""relayctl complete: cliff's command, with our own words on what to do with its output."""

from cliff.complete import CompleteCommand

from notif_relayctl.command import CtlCommand


class Complete(CtlCommand, CompleteCommand):
    """Print the bash completion of all commands and options."""

    example = "relayctl complete > /etc/bash_completion.d/relayctl"
