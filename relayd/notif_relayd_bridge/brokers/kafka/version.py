# SPDX-License-Identifier: Apache-2.0
"""Refuses versions of the client with which a bridge does not work.

pip installs a suitable version. But Debian's oslo.messaging requires Debian's confluent-kafka,
which uses an older librdkafka. With it, the end of a producer after a failure of the brokers can
wait without end.
"""

from __future__ import annotations

import confluent_kafka

from notif_relayd_bridge.errors import StartError

MIN_VERSION = 0x020A0000
"""librdkafka 2.10.0, in the form of its function ``rd_kafka_version``."""


def check_version() -> None:
    """Check the version of librdkafka.

    Raises:
        StartError: it is too old.
    """
    text, number = confluent_kafka.libversion()
    if number < MIN_VERSION:
        raise StartError(
            f"librdkafka {text} is too old: install confluent-kafka 2.10 or newer, which contains "
            "librdkafka"
        )
