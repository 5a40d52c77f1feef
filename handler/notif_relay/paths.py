# SPDX-License-Identifier: Apache-2.0
"""Default locations of the sockets.

The library and the daemon must agree on these names, and third-party consumers depend on them.
They are defined only here.
"""

import os

RUNTIME_DIR = "/run/notif-relayd"
PUBLIC_SOCKET = "notifications.sock"
INGEST_SOCKET = "ingest.sock"
CONTROL_SOCKET = "control.sock"

DEFAULT_PUBLIC_PATH = os.path.join(RUNTIME_DIR, PUBLIC_SOCKET)
DEFAULT_INGEST_PATH = os.path.join(RUNTIME_DIR, INGEST_SOCKET)
