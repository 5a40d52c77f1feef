# SPDX-License-Identifier: Apache-2.0
"""Packages that the daemon and relayctl require, and the error if one is not installed.

The library and the daemon are one distribution. The environment of a service therefore has the
commands `notif-relayd` and `relayctl`, but usually not the packages that they require.
"""

PACKAGES = {
    *("cliff", "daemon", "lockfile", "msgspec", "oslo_config", "oslo_log", "prometheus_client"),
    "rich",
}
"""Import names of the packages without which the daemon or relayctl cannot start."""


def is_required(error: ModuleNotFoundError) -> bool:
    """Return whether the missing module belongs to one of the `PACKAGES`."""
    return (error.name or "").partition(".")[0] in PACKAGES


def not_installed(error: ModuleNotFoundError, extras: str = "daemon") -> str:
    """Return the message for a package that is not installed.

    Args:
        error: names the missing module.
        extras: comma-separated extras of the distribution that contain the package.
    """
    return (
        f"{error.name} is not installed: run \"pip install '.[{extras}]'\" in the sources of "
        "notif-relayd"
    )
