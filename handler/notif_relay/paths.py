# SPDX-License-Identifier: Apache-2.0
"""Where the sockets are, unless somebody says otherwise.

The library and the daemon must agree on these names, and other people's programs are written
against them: they stand here and nowhere else.
"""

import os

RUNTIME_DIR = "/run/notif-relayd"
PUBLIC_SOCKET = "notifications.sock"
INGEST_SOCKET = "ingest.sock"
CONTROL_SOCKET = "control.sock"

DEFAULT_PUBLIC_PATH = os.path.join(RUNTIME_DIR, PUBLIC_SOCKET)
DEFAULT_INGEST_PATH = os.path.join(RUNTIME_DIR, INGEST_SOCKET)
