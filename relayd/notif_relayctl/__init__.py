# SPDX-License-Identifier: Apache-2.0
"""relayctl: query, watch and test the notification relay of this host."""
