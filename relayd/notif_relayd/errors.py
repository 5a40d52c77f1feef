# SPDX-License-Identifier: Apache-2.0
"""What keeps the daemon from starting."""


class StartError(Exception):
    """One sentence for the operator: what is wrong, where, and what to do."""
