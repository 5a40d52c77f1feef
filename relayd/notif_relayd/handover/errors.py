# SPDX-License-Identifier: Apache-2.0
"""The error for a state that cannot be used."""


class StateError(ValueError):
    """The state cannot be used; the message gives the reason."""


def require(condition: bool, otherwise: str) -> None:
    """Raise an error with the message `otherwise` unless a condition holds.

    Raises:
        StateError: the condition does not hold.
    """
    if not condition:
        raise StateError(otherwise)
