# SPDX-License-Identifier: Apache-2.0
"""Permissions of users in one of the relay's groups to connect to the sockets."""

import pytest

from support.container import CONTROL, INGEST, PUBLIC, Journal, allowed, relays


@pytest.fixture(autouse=True)
def running(journal: Journal) -> None:
    assert relays()


def test_subscriber_may_only_read() -> None:
    assert allowed("reader") == {PUBLIC}


def test_producer_may_only_send() -> None:
    assert allowed("writer") == {INGEST}


def test_member_of_the_relays_group_may_only_query() -> None:
    assert allowed("admin") == {CONTROL}


def test_user_in_no_group_may_not_connect() -> None:
    assert allowed("outsider") == set()


def test_root_may_connect_to_all_sockets() -> None:
    assert allowed("root") == {PUBLIC, INGEST, CONTROL}
