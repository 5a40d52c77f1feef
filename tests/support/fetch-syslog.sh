#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Extract rsyslog and syslog-ng into the directory DIR/root, for the tests of the page about log pipelines. They are not
# installed, because their packages conflict with each other, and because each would become the system logger. They
# are extracted even if they are installed: AppArmor may allow an installed one to read only the files of the system.
# Requires apt-get, but not root.
set -u

mkdir -p "$1" && cd "$1" || exit 1

# fetch PACKAGE: download the package, and the libraries that it requires and that are not installed. In the plan, a
# package that would only be upgraded has its installed version in brackets.
fetch() {
	plan=$(apt-get install --simulate --no-install-recommends "$1") || return
	missing=$(echo "$plan" | sed -n 's/^Inst \([^ ]*\) (.*/\1/p' | grep -vx "$1")
	echo "$1" "$missing" | xargs apt-get download
}

status=0
for each in rsyslog syslog-ng-core; do
	fetch "$each" || status=1
done
for each in *.deb; do
	[ ! -e "$each" ] || { dpkg-deb --extract "$each" root && rm "$each"; } || status=1
done
exit $status
