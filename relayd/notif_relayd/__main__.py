# SPDX-License-Identifier: Apache-2.0
"""Run notif-relayd with `python -m notif_relayd`."""

import sys

from notif_relayd.entry import relayd

sys.exit(relayd())
