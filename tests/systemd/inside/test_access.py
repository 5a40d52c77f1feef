# SPDX-License-Identifier: Apache-2.0
"""Who may connect to what, tried by users who are in one group each."""

import pytest
from machine import CONTROL, INGEST, PUBLIC, Journal, allowed, relays


@pytest.fixture(autouse=True)
def running(journal: Journal) -> None:
    assert relays()


def test_a_subscriber_may_read_and_do_nothing_else() -> None:
    assert allowed("reader") == {PUBLIC}


def test_a_producer_may_send_and_do_nothing_else() -> None:
    assert allowed("writer") == {INGEST}


def test_a_member_of_the_relays_own_group_may_ask_for_the_status_and_do_nothing_else() -> None:
    assert allowed("admin") == {CONTROL}


def test_a_user_in_none_of_the_groups_may_do_nothing() -> None:
    assert allowed("outsider") == set()


def test_root_may_do_everything() -> None:
    assert allowed("root") == {PUBLIC, INGEST, CONTROL}
