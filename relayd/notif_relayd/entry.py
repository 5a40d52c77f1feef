# SPDX-License-Identifier: Apache-2.0
"""The commands' way in, which also works where their requirements are not installed.

One distribution holds the library, for every service's environment, and the daemon. So
`notif-relayd` and `relayctl` are there wherever the library is, but what they need may not be.
"""

import sys

REQUIREMENTS = {
    *("cliff", "daemon", "lockfile", "msgspec", "oslo_config", "oslo_log", "prometheus_client"),
    *("rich", "systemd"),
}
"""Import names of what the extra [daemon] installs."""


def relayd() -> int:
    """Run the daemon; the exit status."""
    try:
        from notif_relayd.daemon import main  # noqa: PLC0415 - may not be importable
    except ModuleNotFoundError as error:
        return _missing("notif-relayd", error)
    return main.main(sys.argv[1:])


def relayctl() -> int:
    """Run relayctl; the exit status."""
    try:
        from notif_relayctl import app  # noqa: PLC0415 - may not be importable
    except ModuleNotFoundError as error:
        return _missing("relayctl", error)
    return app.main(sys.argv[1:])


def _missing(command: str, error: ModuleNotFoundError) -> int:
    if (error.name or "").partition(".")[0] not in REQUIREMENTS:
        raise error
    sys.stderr.write(
        f"{command}: {error.name} is not installed: pip install 'notif-relayd[daemon]'\n"
    )
    return 1
