# SPDX-License-Identifier: Apache-2.0
"""Every message reaches the hub while the bridge, the broker, the relay and the network fail.

`make soak-bridge` does the same with more messages and faults. test_bridge_rabbit_faults has the
test for RabbitMQ.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from support.bridge_trial import HubTrial, trial
from support.central import CENTRALS, NatsCentral
from support.nats_server import needs_nats
from support.trial_load import SHORT


@pytest.mark.parametrize("name", [pytest.param("nats", marks=needs_nats), "kafka"])
def test_every_message_reaches_the_hub(
    directory: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After a failure, the bridge waits for as long.
    monkeypatch.setattr(NatsCentral, "source_sections", "[nats]\nack_wait = 1\n")
    with (
        tempfile.TemporaryDirectory(prefix="central-") as data,
        CENTRALS[name](Path(data)) as central,
        trial(HubTrial, directory, central, SHORT) as running,
    ):
        running.fail_in_turn()
    assert running.books.errors == []
    assert running.books.arrived == sum(running.load.emitted)
    # The bridge is killed before everything is acknowledged.
    assert running.books.duplicates.total() > 0
