#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
path=${1:-/run/notif-relayd/notifications.sock}
filter='{"filter": {"priority": ["ERROR"]}}'
printf '%s\n' "$filter" | nc -U "$path" |
    jq --unbuffered -c -R 'fromjson? | select(.event_type != "notif_relayd.subscribed")' |
    while read -r notification; do
        printf 'Something is wrong: %s\n' "$notification"
    done
