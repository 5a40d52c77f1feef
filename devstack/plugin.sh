# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Has the notifications of a DevStack's services relayed. DevStack sources this file with a mode and
# a phase. What is done when follows from the order of stack.sh: "install" comes before keystone is
# started, "post-config" when neutron's configuration has been written as well.

NOTIF_RELAYD_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What the one user of all services is a member of: who sends, who reads, who uses relayctl.
NOTIF_RELAYD_GROUPS="notif-producers notif-subscribers notif-relayd"

# Into the one environment of all services, which need the library.
function install_notif_relayd {
    # Not setup_develop, which looks for the name in setup.cfg: there is none here.
    pip_install -e "${NOTIF_RELAYD_DIR}[daemon]"
    sudo make --silent -C "$NOTIF_RELAYD_DIR" install BINDIR="$(get_python_exec_prefix)"
    local group
    for group in $NOTIF_RELAYD_GROUPS; do
        add_user_to_group "$STACK_USER" "$group"
    done
    sudo systemctl enable --now notif-relayd.socket
}

# Beside the drivers that DevStack and other plugins have set. A file that is right is not written:
# at post-config DevStack itself writes nova.conf, in the background.
function configure_notif_relayd {
    local file drivers
    for file in $NOTIF_RELAYD_SERVICE_CONFIGS; do
        [[ -f $file ]] || continue
        drivers=$(iniget_multiline "$file" oslo_messaging_notifications driver)
        [[ " $drivers " != *" unix "* ]] || continue
        iniset "$file" oslo_messaging_notifications sock_path /run/notif-relayd/notifications.sock
        # shellcheck disable=SC2086 # each a value
        iniset_multiline "$file" oslo_messaging_notifications driver $drivers unix
    done
}

function cleanup_notif_relayd {
    local file drivers group
    for file in $NOTIF_RELAYD_SERVICE_CONFIGS; do
        [[ -f $file ]] || continue
        drivers=" $(iniget_multiline "$file" oslo_messaging_notifications driver) "
        # shellcheck disable=SC2086 # each a value
        iniset_multiline "$file" oslo_messaging_notifications driver ${drivers/ unix / }
        inidelete "$file" oslo_messaging_notifications sock_path
    done
    for group in $NOTIF_RELAYD_GROUPS; do
        sudo gpasswd --delete "$STACK_USER" "$group"
    done
    sudo make --silent -C "$NOTIF_RELAYD_DIR" uninstall
    pip_uninstall notif-relayd
}

if is_service_enabled notif-relayd; then
    case "$1 ${2:-}" in
        "stack install")
            echo_summary "Installing notif-relayd"
            install_notif_relayd
            configure_notif_relayd
            ;;
        "stack post-config")
            configure_notif_relayd
            ;;
        "unstack ")
            sudo systemctl disable --now notif-relayd.socket
            ;;
        "clean ")
            cleanup_notif_relayd
            ;;
    esac
fi
