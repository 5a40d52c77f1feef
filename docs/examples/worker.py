# SPDX-License-Identifier: Apache-2.0
"""Handle errors of the services on this host, together with other processes of this program."""

import json
import socket
import sys

REQUEST = {"group": "errors", "window": 10, "hold": 60, "filter": {"priority": ["ERROR"]}}

path = sys.argv[1] if len(sys.argv) > 1 else "/run/notif-relayd/notifications.sock"
with socket.socket(socket.AF_UNIX) as relay:
    relay.connect(path)
    relay.sendall(json.dumps(REQUEST).encode() + b"\n")
    report = None
    for line in relay.makefile("rb"):
        try:
            notification = json.loads(line)
        except ValueError:
            continue  # The relay was killed within this line.
        event_type, payload = notification["event_type"], notification["payload"]
        if event_type == "notif_relayd.error":
            sys.exit(payload)
        elif event_type == "notif_relayd.subscribed":
            report = {"done": 0, "group_since": payload["group_since"]}
        elif event_type == "notif_relayd.redelivered":
            print("possibly handled before:", payload["records"], flush=True)
        elif report is not None:  # Records before the answer are not from the group.
            if event_type == "notif_relayd.gap":
                print(payload["dropped"] or "some", "are missing:", payload["reason"], flush=True)
            else:
                print(event_type, payload, flush=True)
            report["done"] += 1
            relay.sendall(json.dumps(report).encode() + b"\n")
