#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# root.sh DIRECTORY build|container|machine: a Debian to build the packages in, or to install them
# in. What has to be in it says debian/control; python3-msgspec may not be there, and is made then.
set -eu
suite=${SUITE:-bookworm}
case $2 in
    build) field=Build-Depends more=build-essential,lintian,python3-all-dev,systemd ;;
    # A service's side, beside what the relay needs.
    container) field=Depends more=systemd-sysv,dbus,procps,python3-apt,python3-oslo.messaging ;;
    machine) field=Depends more=systemd-sysv,dbus,udev,kmod,linux-image-amd64,apparmor ;;
esac
# What is compiled needs a library that has another name in each release; this one brings it.
[ "$2" = build ] || more=$more,libsimdjson-dev
# The last paragraph that has the field, one package a line, the first of alternatives only.
packages=$(sed -n "/^$field:/,/^[A-Z][^:]*:.*[^,]\$/p" debian/control |
    sed -e "s/^$field://" -e '/^[A-Z]/d' -e '/[$]/d' -e 's/[ ,]*//g' -e 's/[(<|].*//' -e 's/debhelper-compat/debhelper/' \
        -e '/^$/d' -e '/systemd-dev/d' -e '/python3-msgspec/d' -e '/python3-notif-relay/d' | sort -u | paste -sd,)
rm -rf "$1"
mmdebstrap --quiet --variant=minbase --include="$more,$packages" "$suite" "$1" </dev/null
if [ "$2" = machine ]; then
    printf '/dev/vda / ext4\n/dev/vdb /opt ext4\n' >"$1/etc/fstab"
    : >"$1/etc/machine-id"
fi
