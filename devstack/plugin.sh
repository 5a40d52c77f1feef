# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Make the services of a DevStack send their notifications to the relay. DevStack sources this file with
# a mode and a phase. In stack.sh, "install" precedes the start of keystone, and "post-config" follows the
# writing of neutron's configuration.

NOTIF_RELAYD_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The groups for sending, reading and relayctl. All services run as one user, which joins all of them.
NOTIF_RELAYD_GROUPS="notif-producers notif-subscribers notif-relayd"

NOTIF_RELAYD_BRIDGE_CONFIG=/etc/notif-relayd/bridge/devstack.conf

# Install into the Python environment that all services share, because they need the library. The extra of the
# bridge's client has the name of the URL's scheme.
function install_notif_relayd {
    local extras=daemon
    [[ -z $NOTIF_RELAYD_BRIDGE_TARGET ]] || extras+=,${NOTIF_RELAYD_BRIDGE_TARGET%%:*}
    # setup_develop does not work: it takes the name from setup.cfg, which does not exist.
    pip_install -e "${NOTIF_RELAYD_DIR}[$extras]"
    sudo make --silent -C "$NOTIF_RELAYD_DIR" install BINDIR="$(get_python_exec_prefix)"
    local group
    for group in $NOTIF_RELAYD_GROUPS; do
        add_user_to_group "$STACK_USER" "$group"
    done
    sudo systemctl enable --now notif-relayd.socket
    if [[ -n $NOTIF_RELAYD_BRIDGE_TARGET ]]; then
        configure_notif_relayd_bridge
    else
        remove_notif_relayd_bridge
    fi
}

# Create the file with its permissions before it contains a password. A bridge that runs already needs a restart.
function configure_notif_relayd_bridge {
    sudo install -m 640 -g notif-relayd-bridge /dev/null "$NOTIF_RELAYD_BRIDGE_CONFIG"
    printf '%s\n' "[bridge]" "target = $NOTIF_RELAYD_BRIDGE_TARGET" "$NOTIF_RELAYD_BRIDGE_OPTIONS" |
        sudo tee "$NOTIF_RELAYD_BRIDGE_CONFIG" >/dev/null
    sudo systemctl enable notif-relayd-bridge@devstack
    sudo systemctl restart notif-relayd-bridge@devstack
}

function remove_notif_relayd_bridge {
    sudo systemctl disable --now notif-relayd-bridge@devstack
    sudo rm -f "$NOTIF_RELAYD_BRIDGE_CONFIG"
}

# Add the driver to those that DevStack and other plugins have set. Do not write a file that is complete:
# in post-config, DevStack itself writes nova.conf in the background.
function configure_notif_relayd {
    local file drivers
    for file in $NOTIF_RELAYD_SERVICE_CONFIGS; do
        [[ -f $file ]] || continue
        drivers=$(iniget_multiline "$file" oslo_messaging_notifications driver)
        [[ " $drivers " != *" unix "* ]] || continue
        iniset "$file" oslo_messaging_notifications sock_path /run/notif-relayd/notifications.sock
        # shellcheck disable=SC2086 # one value per word
        iniset_multiline "$file" oslo_messaging_notifications driver $drivers unix
    done
}

function cleanup_notif_relayd {
    local file drivers group
    for file in $NOTIF_RELAYD_SERVICE_CONFIGS; do
        [[ -f $file ]] || continue
        drivers=" $(iniget_multiline "$file" oslo_messaging_notifications driver) "
        # shellcheck disable=SC2086 # one value per word
        iniset_multiline "$file" oslo_messaging_notifications driver ${drivers/ unix / }
        inidelete "$file" oslo_messaging_notifications sock_path
    done
    for group in $NOTIF_RELAYD_GROUPS; do
        sudo gpasswd --delete "$STACK_USER" "$group"
    done
    remove_notif_relayd_bridge
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
            sudo systemctl disable --now notif-relayd-bridge@devstack notif-relayd.socket
            ;;
        "clean ")
            cleanup_notif_relayd
            ;;
    esac
fi
