#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Install the programs that the relay is compared with, or the given ones of them. Requires root;
# otherwise, list the missing packages. The benchmark and the tests start the programs themselves, so
# prevent Debian from starting and enabling them.
set -eu

peers="${*:-redis-server mosquitto nats-server rabbitmq-server}"
missing=
for each in $peers; do
	dpkg-query -W -f '${Status}' "$each" 2>/dev/null | grep -q ' installed$' ||
		missing="$missing $each"
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
	sudo="sudo -n"
	$sudo true 2>/dev/null || {
		echo "Missing packages (root is required to install them):$missing" >&2
		exit 1
	}
fi

# Packages run this program before they start a service; 101 forbids the start. See policy-rc.d(8).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap '$sudo rm -f "$policy"' EXIT INT TERM
	printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
	$sudo chmod 755 "$policy"
fi
$sudo apt-get update >/dev/null 2>&1 || true
for each in $missing; do
	echo "Installing $each"
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		-o DPkg::Lock::Timeout=120 "$each" >/dev/null 2>&1 ||
		echo "Cannot install $each" >&2
	if [ -d /run/systemd/system ]; then
		$sudo systemctl disable --quiet "$each" 2>/dev/null || true
	fi
done
