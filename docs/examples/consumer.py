# SPDX-License-Identifier: Apache-2.0
"""Print all errors of the services on this host, and report missing notifications."""

import sys

from notif_relay import Gap, subscribe
from notif_relay.paths import DEFAULT_PUBLIC_PATH

path = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_PUBLIC_PATH
for notification in subscribe(path, priority="ERROR"):
    if isinstance(notification, Gap):
        print(notification.dropped or "some", "are missing:", notification.reason, flush=True)
    else:
        print(notification.event_type, notification.payload, flush=True)
