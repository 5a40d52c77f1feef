#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What "make deb" runs in a root that has the build dependencies and no network: /opt/in holds the
# sources, /opt/out gets the packages.
set -eu
work=$(mktemp -d)
# pyproject.toml has the only copy of the maintainer's address.
maintainer=$(tar -xOf /opt/in/notif_relayd-*.tar.gz --wildcards '*/pyproject.toml' |
    sed -n 's/^maintainers = .*email = "\(.*\)".*/\1/p')
[ -n "$maintainer" ] || { echo "no maintainer address in pyproject.toml" >&2; exit 1; }

# build TARBALL [DEBIAN]: packages of these sources, with this directory as their debian/.
build() {
    mkdir "$work/${1##*/}"
    tar -xf "$1" --strip-components=1 -C "$work/${1##*/}"
    cd "$work/${1##*/}"
    [ -z "${2:-}" ] || cp -r "$2" debian
    # A test asks for a version of its own, to upgrade to.
    [ -n "${2:-}" ] || [ -z "${DEB_VERSION:-}" ] || sed -i "1s/([^)]*)/($DEB_VERSION)/" debian/changelog
    sed -i "s/<PLACEHOLDER>/<$maintainer>/" debian/control debian/changelog
    dpkg-buildpackage -b -us -uc
    cd "$work"
}

if ! dpkg -s python3-msgspec >/dev/null 2>&1; then
    # Once it is made it is as good as Debian's.
    set -- /opt/out/python3-msgspec_*.deb
    if [ ! -e "$1" ]; then
        build /opt/in/msgspec-*.tar.gz /opt/in/python-msgspec/debian
        cp "$work"/python3-msgspec_*.deb /opt/out
    fi
    dpkg -i /opt/out/python3-msgspec_*.deb
fi
build /opt/in/notif_relayd-*.tar.gz
[ -n "${DEB_VERSION:-}" ] || lintian --fail-on warning --info --color never --allow-root "$work"/notif-relayd_*.changes
cp "$work"/notif-relayd_* "$work"/python3-notif-relay_* /opt/out
