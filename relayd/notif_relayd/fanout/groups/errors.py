# SPDX-License-Identifier: Apache-2.0
"""The error for a request about a group that is refused."""


class GroupError(ValueError):
    """A member's request is refused; the message is one sentence for the subscriber."""
