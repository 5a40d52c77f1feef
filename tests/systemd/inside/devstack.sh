#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# devstack.sh PLUGIN MODE [PHASE]: run a plugin as stack.sh, unstack.sh and clean.sh do. Contains short
# equivalents of the DevStack functions that the plugin calls. The tests run as root, and the container
# has no sudo.
set -eu

sudo() { "$@"; }
echo_summary() { echo "$@"; }
define_plugin() { :; }
enable_service() { [[ ,${DISABLED_SERVICES:-}, == *",$1,"* ]] || ENABLED_SERVICES+=,$1; }
is_service_enabled() { [[ ,$ENABLED_SERVICES, == *",$1,"* ]]; }
add_user_to_group() { usermod --append --groups "$2" "$1"; }
get_python_exec_prefix() { echo "$DEVSTACK_VENV/bin"; }
pip_install() { "$DEVSTACK_VENV/bin/pip" install "$@"; }
pip_uninstall() { "$DEVSTACK_VENV/bin/pip" uninstall --yes "$@"; }

iniget_multiline() { sed -n "/^\[$2\]/,/^\[/s/^$3 *= *//p" "$1" | xargs; }
inidelete() { sed -i "/^\[$2\]/,/^\[/{/^$3 *=/d}" "$1"; }
iniset() { iniset_multiline "$@"; }
iniset_multiline() {
    local file=$1 section=$2 option=$3
    shift 3
    inidelete "$file" "$section" "$option"
    grep -q "^\[$section\]" "$file" || printf '\n[%s]\n' "$section" >>"$file"
    [[ $# -eq 0 ]] || sed -i "/^\[$section\]/r "<(printf "$option = %s\n" "$@") "$file"
}

ENABLED_SERVICES=n-api,n-cpu,key
STACK_USER=stack
DEVSTACK_VENV=/opt/stack/data/venv

plugin=$1
shift
source "$plugin/devstack/settings"
source "$plugin/devstack/plugin.sh" "$@"
