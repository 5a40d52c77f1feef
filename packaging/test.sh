#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test.sh OLD NEW: boots a Debian that has what the packages need, and installs, upgrades and purges
# them there. Nothing of it is kept: what is written goes to memory.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checkout=$PWD
status=0
timeout 260 setpriv --pdeathsig=KILL unshare --pid --mount-proc --fork --kill-child \
    systemd-nspawn --quiet --directory="$checkout/.debian/test" --volatile=overlay --private-network --boot \
    --register=no --keep-unit --machine="notif-relayd-deb-$$" \
    --bind="$work:/opt/test" --bind-ro="$1:/opt/packages/old" --bind-ro="$2:/opt/packages/new" \
    --bind-ro="$checkout:/opt/notif-relayd" \
    --bind-ro="$checkout/tests/packages/test-run.service:/etc/systemd/system/test-run.service" \
    systemd.unit=test-run.service systemd.condition-first-boot=no systemd.show_status=no \
    </dev/null >"$work/console" 2>&1 || status=$?
cat "$work/output" || cat "$work/console"
grep -q '<testsuite [^>]*errors="0" failures="0"' "$work/results.xml" || {
    cat "$work/journal" || true
    echo "It failed; nspawn's exit status was $status" >&2
    exit 1
}
