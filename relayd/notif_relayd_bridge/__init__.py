# SPDX-License-Identifier: Apache-2.0
"""notif-relayd-bridge: carries notifications between the relay of a host and a message broker."""
