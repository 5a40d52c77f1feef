# SPDX-License-Identifier: Apache-2.0
"""All of nova's versioned notifications, from the samples in its sources."""

from __future__ import annotations

import json

from support.nova import SAMPLES, TOPIC, emit_samples
from support.relay import RunningRelay


def test_relay_receives_every_sample_of_nova(relay: RunningRelay) -> None:
    samples = sorted(SAMPLES.glob("*.json"))
    received = emit_samples(relay)
    assert relay.status()["records_received"] == len(samples) > 100
    expected = [json.loads(each.read_text())["event_type"] for each in samples]
    assert [json.loads(line)["event_type"] for line in received] == expected
    logged = (relay.directory / "nova.log").read_bytes().splitlines(keepends=True)
    notifications = [each for each in logged if each.startswith(b"oslo.messaging.notification")]
    assert [line.replace(TOPIC, b"") for line in received] == [
        each.partition(b" ")[2] for each in notifications
    ]
