# SPDX-License-Identifier: Apache-2.0
"""relayctl doctor: what goes wrong in practice, and what to do about each.

Each module examines one thing and yields findings; none stops at the first, and none raises for
what it finds. Nothing is changed, nothing of a service's configuration is executed, and until the
round trip no socket that systemd may hold is connected to.
"""
