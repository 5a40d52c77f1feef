# SPDX-License-Identifier: Apache-2.0
"""Errors of the bridge, each reported in one line; no message contains a password."""


class BridgeError(Exception):
    """The bridge cannot do what is configured; the message states what is wrong, where, and what
    to do."""


class StartError(BridgeError):
    """The bridge cannot start."""


class SpoolError(BridgeError):
    """The spool cannot be opened, read or written; the message contains its path and the reason."""
