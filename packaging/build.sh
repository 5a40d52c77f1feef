#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Build the Debian packages. "make deb" runs this script in a root directory with the build
# dependencies and without a network. /opt/source is the checkout; the packages go to /opt/out.
# DEB_VERSION, if set, replaces the version in debian/changelog; the upgrade test needs two versions.
set -eu
work=$(mktemp -d)
# Build from the sdist, so that the packages cannot contain other files of the checkout. setuptools writes to the
# directory from which it builds the sdist, so copy it.
mkdir "$work/checkout" "$work/source"
tar -C /opt/source --exclude='./.*' --exclude=./dist --exclude='*.egg-info' -cf - . | tar -xf - -C "$work/checkout"
cd "$work/checkout"
python3 -c 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])' "$work"
tar -xf "$work"/notif_relayd-*.tar.gz --strip-components=1 -C "$work/source"
cd "$work/source"
# pyproject.toml has the only copy of the maintainer's address.
maintainer=$(sed -n 's/^maintainers = .*email = "\(.*\)".*/\1/p' pyproject.toml)
[ -n "$maintainer" ] || { echo "no maintainer address in pyproject.toml" >&2; exit 1; }
sed -i "s/<PLACEHOLDER>/<$maintainer>/" debian/control debian/changelog
[ -z "${DEB_VERSION:-}" ] || sed -i "1s/([^)]*)/($DEB_VERSION)/" debian/changelog
dpkg-buildpackage -b -us -uc
[ -n "${DEB_VERSION:-}" ] ||
    lintian --fail-on warning --info --color never --allow-root "$work"/notif-relayd_*.changes
cp "$work"/notif-relayd_* "$work"/notif-relayd-bridge_* "$work"/python3-notif-relay_* /opt/out
