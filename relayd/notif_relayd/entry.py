# SPDX-License-Identifier: Apache-2.0
"""Entry points of the commands, with an error message if their requirements are not installed.

The library and the daemon are one distribution. The environment of a service therefore has the
commands `notif-relayd` and `relayctl`, but usually not the packages that they require.
"""

import sys

REQUIREMENTS = {
    *("cliff", "daemon", "lockfile", "msgspec", "oslo_config", "oslo_log", "prometheus_client"),
    *("rich", "systemd"),
}
"""Import names of the packages that the extra [daemon] installs."""


def relayd() -> int:
    """Run the daemon and return its exit status."""
    try:
        from notif_relayd.daemon import main  # noqa: PLC0415 - may fail
    except ModuleNotFoundError as error:
        return _missing("notif-relayd", error)
    return main.main(sys.argv[1:])


def relayctl() -> int:
    """Run relayctl and return its exit status."""
    try:
        from notif_relayctl import app  # noqa: PLC0415 - may fail
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
