# SPDX-License-Identifier: Apache-2.0
"""Where the sockets of a relay are: in the given directory, or as its configuration says.

systemd ignores the paths in the configuration, so they count only if the default path does not
exist. Reading the configuration takes longer than most commands.
"""

import os

from notif_relay import paths


def socket_path(runtime_dir: str, name: str) -> str:
    """Return the path of a socket.

    Args:
        runtime_dir: directory of the sockets. If it is the default, the configuration may replace
            it.
        name: the default name of the socket.
    """
    path = os.path.join(runtime_dir, name)
    if runtime_dir != paths.RUNTIME_DIR or os.path.exists(path):
        return path
    from notif_relayd import settings  # noqa: PLC0415 - slow

    if not os.path.exists(settings.CONFIG_FILE) and not os.path.exists(settings.CONFIG_DIR):
        return path
    from notif_relayctl.doctor.configuration import configuration_of  # noqa: PLC0415 - slow

    configured, _ = configuration_of(runtime_dir, None, None)
    plans = {
        paths.PUBLIC_SOCKET: configured.public,
        paths.INGEST_SOCKET: configured.ingest,
        paths.CONTROL_SOCKET: configured.control,
    }
    return plans[name].path
