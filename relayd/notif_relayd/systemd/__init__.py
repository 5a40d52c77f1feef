# SPDX-License-Identifier: Apache-2.0
"""The service manager: descriptor store, notifications, watchdog and idle exit."""
