# SPDX-License-Identifier: Apache-2.0
"""Errors of the bridge."""


class BridgeError(Exception):
    """The bridge cannot do what is configured; the message states what is wrong, where, and what
    to do."""


class SpoolError(BridgeError):
    """The spool cannot be opened, read or written; the message contains its path and the reason."""
