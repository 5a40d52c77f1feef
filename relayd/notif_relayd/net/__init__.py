# SPDX-License-Identifier: Apache-2.0
"""Sockets and the event loop."""
