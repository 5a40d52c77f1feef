# SPDX-License-Identifier: Apache-2.0
"""The bridges of this host, as their status sockets describe them."""
