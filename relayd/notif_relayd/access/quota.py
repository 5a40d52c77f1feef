# SPDX-License-Identifier: Apache-2.0
"""Limits on the memory that the relay holds on behalf of users, accounted by user."""

from collections import Counter


class QuotaError(ValueError):
    """A charge exceeds a limit; the message names the user and the limit."""


class Quota:
    """Bytes charged to users.

    Args:
        name: of the option for the limit of one user, for messages.
        per_user: bytes that may be charged to one user; a change applies to later charges.
        total: bytes that may be charged to all users together.
    """

    def __init__(self, name: str, per_user: int, total: int) -> None:
        self.per_user = per_user
        self.charged = 0
        """Bytes charged to all users."""
        self._name = name
        self._total = total
        self._by_user: Counter[int] = Counter()

    def charge(self, uid: int, size: int) -> None:
        """Charge `size` bytes to a user.

        Raises:
            QuotaError: a limit would be exceeded; nothing is charged.
        """
        if self._by_user[uid] + size > self.per_user:
            self._forget_if_zero(uid)
            raise QuotaError(f"uid {uid} has reached {self._name} = {self.per_user} bytes")
        if self.charged + size > self._total:
            self._forget_if_zero(uid)
            raise QuotaError(f"all users together have reached the limit of {self._total} bytes")
        self._by_user[uid] += size
        self.charged += size

    def release(self, uid: int, size: int) -> None:
        """Return `size` bytes that were charged to a user."""
        self._by_user[uid] -= size
        self.charged -= size
        self._forget_if_zero(uid)

    @property
    def tracked_users(self) -> int:
        """Number of users with charged bytes."""
        return len(self._by_user)

    def _forget_if_zero(self, uid: int) -> None:
        if not self._by_user[uid]:
            del self._by_user[uid]
