# SPDX-License-Identifier: Apache-2.0
"""Entry point of the bridge, with an error message if its requirements are not installed."""

import sys
from collections.abc import Sequence

from notif_relayd import stdio
from notif_relayd.requirements import is_required, not_installed


def bridge() -> int:
    """Run the bridge and return its exit status."""
    return stdio.run("notif-relayd-bridge", _run)


def _run(arguments: Sequence[str]) -> int:
    try:
        from notif_relayd_bridge import main  # noqa: PLC0415 - may fail
    except ModuleNotFoundError as error:
        if not is_required(error):
            raise
        sys.stderr.write(f"notif-relayd-bridge: {not_installed(error)}\n")
        return 1
    return main.main(arguments)
