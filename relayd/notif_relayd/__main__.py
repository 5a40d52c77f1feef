# SPDX-License-Identifier: Apache-2.0
"""`python -m notif_relayd` is notif-relayd."""

import sys

from notif_relayd.entry import relayd

sys.exit(relayd())
