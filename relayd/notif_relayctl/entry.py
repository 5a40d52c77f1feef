# SPDX-License-Identifier: Apache-2.0
"""Entry point of relayctl, with an error message if its requirements are not installed."""

import sys
from collections.abc import Sequence

from notif_relayd import stdio
from notif_relayd.requirements import is_required, not_installed


def relayctl() -> int:
    """Run relayctl and return its exit status."""
    return stdio.run("relayctl", _run)


def _run(arguments: Sequence[str]) -> int:
    stdio.ignore_errors_of_stderr()
    try:
        from notif_relayctl import app  # noqa: PLC0415 - may fail
    except ModuleNotFoundError as error:
        if not is_required(error):
            raise
        sys.stderr.write(f"relayctl: {not_installed(error)}\n")
        return 1
    return app.main(arguments)
