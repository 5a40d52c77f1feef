# SPDX-License-Identifier: Apache-2.0
"""Run notif-relayd-bridge with `python -m notif_relayd_bridge`."""

import sys

from notif_relayd_bridge.entry import bridge

sys.exit(bridge())
