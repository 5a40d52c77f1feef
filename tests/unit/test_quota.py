# SPDX-License-Identifier: Apache-2.0
"""Quotas: limits on the bytes that are charged to a user and to all users."""

import pytest

from notif_relay.group import is_limit
from notif_relayd.access.quota import Quota, QuotaError


def test_user_limit_is_enforced() -> None:
    quota = Quota("max_things", 100, 1000)
    quota.charge(1, 60)
    quota.charge(1, 40)
    with pytest.raises(QuotaError, match=r"^uid 1 has reached max_things = 100 bytes$"):
        quota.charge(1, 1)
    quota.charge(2, 100)
    quota.release(1, 40)
    quota.charge(1, 40)
    assert quota.charged == 200


def test_total_limit_is_enforced() -> None:
    quota = Quota("max_filter_bytes_per_user", 100, 250)
    with pytest.raises(QuotaError) as raised:
        quota.charge(1, 101)
    assert is_limit(str(raised.value))
    quota.charge(1, 100)
    quota.charge(2, 100)
    with pytest.raises(QuotaError, match="have reached the limit of 250 bytes") as raised:
        quota.charge(3, 51)
    assert is_limit(str(raised.value))
    quota.charge(3, 50)


def test_refused_charge_changes_nothing() -> None:
    quota = Quota("max_things", 100, 1000)
    for uid in range(1000):
        with pytest.raises(QuotaError):
            quota.charge(uid, 101)
    quota.charge(5, 10)
    quota.release(5, 10)
    assert quota.charged == 0
    assert quota.tracked_users == 0
