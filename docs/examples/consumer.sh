#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
path=${1:-/run/notif-relayd/notifications.sock}
filter='{"filter": {"priority": ["ERROR"]}}'
printf '%s\n' "$filter" | nc -U "$path" |
    jq --unbuffered -r -R 'fromjson? | [.event_type, .publisher_id, .payload] | @json' |
    while read -r notification; do
        printf 'Something is wrong: %s\n' "$notification"
    done
