#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# root.sh SUITE DIRECTORY build|container|bare: install Debian SUITE into DIRECTORY, to build the packages, to
# test them, or to test README.md. The packages that the first two require are taken from debian/control.
set -eu
suite=$1 directory=$2 purpose=$3
case $purpose in
    bare) field=None more=ca-certificates,dbus,systemd-sysv ;;
    build) field=Build-Depends more=build-essential,lintian,python3-all-dev ;;
    # Everything that the tests use is Debian's, so that the host may have another version of Python.
    # libsimdjson-dev brings the library that the compiled module needs, whose package has another name in
    # each release.
    container)
        field=Depends more=systemd-sysv,dbus,procps,libsimdjson-dev,ansible-core
        more=$more,python3-apt,python3-hypothesis,python3-oslo.messaging,python3-pip,python3-pytest,python3-setuptools,python3-venv
        ;;
esac
# The field of the last paragraph that has it: one package per line, of alternatives the first one.
packages=$(sed -n "/^$field:/,/^[A-Z][^:]*:.*[^,]\$/p" debian/control |
    sed -e "s/^$field://" -e '/^[A-Z]/d' -e '/[$]/d' -e 's/[ ,]*//g' -e 's/[(<|].*//' -e 's/debhelper-compat/debhelper/' \
        -e '/^$/d' | grep -vx python3-notif-relay | sort -u | paste -sd,)
rm -rf "$directory"
mmdebstrap --quiet --variant=minbase --include="$more${packages:+,$packages}" "$suite" "$directory" </dev/null
