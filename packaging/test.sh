#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test.sh ROOT OLD NEW: boot the Debian in the directory ROOT, which contains the dependencies of the
# packages, as a container, and run tests/packages in it. OLD and NEW are directories with the packages
# of two versions. The container's changes are discarded. It does not get the caller's environment.
set -eu
root=$1 old=$2 new=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "Testing the packages in a container, which takes about 3 minutes"
status=0
# --volatile=overlay keeps all changes in memory.
timeout 600 env -i PATH="$PATH" SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=yes setpriv --pdeathsig=KILL \
    unshare --pid --mount-proc --fork --kill-child \
    systemd-nspawn --quiet --directory="$root" --volatile=overlay --private-network --boot \
    --register=no --keep-unit --machine="notif-relayd-deb-$$" \
    --bind="$work:/opt/test" --bind-ro="$old:/opt/packages/old" --bind-ro="$new:/opt/packages/new" \
    --bind-ro="$PWD:/opt/notif-relayd" \
    --bind-ro="$PWD/tests/packages/test-run.service:/etc/systemd/system/test-run.service" \
    systemd.unit=test-run.service systemd.condition-first-boot=no systemd.show_status=no \
    </dev/null >"$work/console" 2>&1 || status=$?
cat "$work/output" || cat "$work/console"
grep -q '<testsuite [^>]*errors="0" failures="0"' "$work/results.xml" || {
    sed -n "/Starting test-run.service/,\$p" "$work/journal" || true
    echo "The tests failed. Exit status of systemd-nspawn: $status" >&2
    exit 1
}
