# SPDX-License-Identifier: Apache-2.0
"""relayctl top: a live view of rates, connections and event types."""
