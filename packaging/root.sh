#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# root.sh SUITE DIRECTORY build|container|machine: make a Debian of this release to build the packages
# in, or to install them in. debian/control lists what has to be in it.
set -eu
suite=$1 directory=$2 purpose=$3
# Which package says where units belong (systemd.pc), and what the release does not have: Debian 12 has
# no msgspec, and "make deb" builds it.
systemd="systemd-dev" lacking="python3-notif-relay"
[ "$suite" != bookworm ] || systemd="systemd" lacking="$lacking|python3-msgspec"
case $purpose in
    build) field=Build-Depends more=build-essential,lintian,python3-all-dev,$systemd ;;
    # A service's side, beside what the relay needs.
    container) field=Depends more=systemd-sysv,dbus,procps,python3-apt,python3-oslo.messaging ;;
    machine) field=Depends more=systemd-sysv,dbus,udev,kmod,linux-image-amd64,apparmor ;;
esac
# What is compiled needs a library that has another name in each release; this one brings it.
[ "$purpose" = build ] || more=$more,libsimdjson-dev
# The last paragraph that has the field, one package a line, the first of alternatives only.
packages=$(sed -n "/^$field:/,/^[A-Z][^:]*:.*[^,]\$/p" debian/control |
    sed -e "s/^$field://" -e '/^[A-Z]/d' -e '/[$]/d' -e 's/[ ,]*//g' -e 's/[(<|].*//' -e 's/debhelper-compat/debhelper/' \
        -e '/^$/d' -e '/systemd-dev/d' | grep -vxE "$lacking" | sort -u | paste -sd,)
rm -rf "$directory"
mmdebstrap --quiet --variant=minbase --include="$more,$packages" "$suite" "$directory" </dev/null
if [ "$purpose" = machine ]; then
    printf '/dev/vda / ext4\n/dev/vdb /opt ext4\n' >"$directory/etc/fstab"
    : >"$directory/etc/machine-id"
fi
