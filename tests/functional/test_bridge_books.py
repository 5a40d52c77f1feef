# SPDX-License-Identifier: Apache-2.0
"""Every record is accounted for while the bridge, the broker, the relay and the network fail.

`make soak-bridge` does the same with more records and faults. test_bridge_rabbit_faults has the
tests for RabbitMQ, because its start takes long.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from support.bridge_trial import OutTrial, trial
from support.central import CENTRALS
from support.nats_server import needs_nats
from support.trial_load import SHORT


@pytest.mark.parametrize("name", [pytest.param("nats", marks=needs_nats), "kafka"])
def test_every_record_is_accounted_for(directory: Path, name: str) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="central-") as data,
        CENTRALS[name](Path(data)) as central,
        trial(OutTrial, directory, central, SHORT) as running,
    ):
        running.fail_in_turn()
        books = running.books
    assert books.errors == []
    assert books.reasons == {"producer_congested": running.dropped}
    assert running.dropped > 0
    # The bridge is killed while the broker has not confirmed everything.
    assert books.duplicates.total() > 0


def test_messages_discarded_by_the_mock_cluster_are_counted() -> None:
    with CENTRALS["kafka"](Path()) as central:
        assert central.discarded() == 0
        central.publish([os.urandom(900_000) for _ in range(8)])
        assert central.discarded() == 3
