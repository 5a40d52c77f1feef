# SPDX-License-Identifier: Apache-2.0
"""relayctl doctor: checks for common faults, each with a remedy.

Each module examines one subject and yields findings. It does not stop at the first fault and does
not raise for a fault. The checks change nothing, execute nothing of a service's configuration, and
connect to no socket that systemd may hold, until the round trip at the end.
"""
