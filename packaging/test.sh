#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# test.sh container|machine ROOT OLD NEW: boots the Debian in ROOT, which has what the packages need,
# and installs, upgrades and purges them there. A container has this host's kernel; a machine is
# emulated, slow, and has Debian's own kernel with AppArmor. Nothing of it is kept, and nothing of the
# caller's environment gets into it.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checkout=$PWD
root=$2
echo "Testing the packages in a booted Debian, for 2 minutes (a container) to 20 (a machine)"
run="systemd.unit=test-run.service systemd.setenv=TESTS=tests/packages/$1 systemd.condition-first-boot=no systemd.show_status=no"
status=0
case $1 in
    container)
        # What is written goes to memory.
        # shellcheck disable=SC2086 # each a word
        timeout 260 env -i PATH="$PATH" SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=yes setpriv --pdeathsig=KILL unshare --pid --mount-proc --fork --kill-child \
            systemd-nspawn --quiet --directory="$root" --volatile=overlay --private-network --boot \
            --register=no --keep-unit --machine="notif-relayd-deb-$$" \
            --bind="$work:/opt/test" --bind-ro="$3:/opt/packages/old" \
            --bind-ro="$4:/opt/packages/new" --bind-ro="$checkout:/opt/notif-relayd" \
            --bind-ro="$checkout/tests/packages/test-run.service:/etc/systemd/system/test-run.service" \
            $run </dev/null >"$work/console" 2>&1 || status=$?
        ;;
    machine)
        # Two disks: Debian, and /opt, which is looked at when the machine is off.
        mkdir -p "$work/opt/packages" "$work/opt/test" "$work/opt/notif-relayd"
        cp -r "$3" "$work/opt/packages/old"
        cp -r "$4" "$work/opt/packages/new"
        cp tests/packages/test-run.service "$root/etc/systemd/system"
        cp -r .venv handler relayd tests pyproject.toml "$work/opt/notif-relayd"
        for disk in "$root" "$work/opt"; do
            truncate -s 4G "$work/${disk##*/}.ext4"
            mke2fs -q -t ext4 -d "$disk" "$work/${disk##*/}.ext4"
        done
        timeout 1500 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2G -nographic -no-reboot \
            -kernel "$root/vmlinuz" -initrd "$root/initrd.img" \
            -drive "file=$work/${root##*/}.ext4,if=virtio,format=raw,cache=unsafe" \
            -drive "file=$work/opt.ext4,if=virtio,format=raw,cache=unsafe" \
            -append "root=/dev/vda rw console=ttyS0 apparmor=1 security=apparmor $run" \
            </dev/null >"$work/console" 2>&1 || status=$?
        debugfs -R "rdump /test $work" "$work/opt.ext4" 2>/dev/null
        mv "$work"/test/* "$work"
        ;;
esac
cat "$work/output" || cat "$work/console"
grep -q '<testsuite [^>]*errors="0" failures="0"' "$work/results.xml" || {
    sed -n "/Starting test-run.service/,\$p" "$work/journal" || true
    echo "It failed; the exit status of what booted it was $status" >&2
    exit 1
}
