# SPDX-License-Identifier: Apache-2.0
"""Errors of the bridge, each reported in one line; no message contains a password."""


class BridgeError(Exception):
    """Base class of the bridge's exceptions."""


class StartError(BridgeError):
    """The bridge cannot start; the message states what is wrong, where, and what to do."""


class SpoolError(BridgeError):
    """The spool cannot be read or written; the message contains the path and the reason."""
