# SPDX-License-Identifier: Apache-2.0
"""Errors of the client for Kafka."""

from __future__ import annotations

from confluent_kafka import KafkaError

from notif_relayd.escaping import printable
from notif_relayd_bridge.redaction import Redaction

ALL_BROKERS_DOWN = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 (public, despite its name)
AUTHENTICATION = KafkaError._AUTHENTICATION  # noqa: SLF001

MISSING_TOPIC = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
)
"""Errors of a topic that does not exist yet. The client looks for it from time to time."""

HARMLESS = (
    # The group has given the partitions to another member, which is reported as well.
    KafkaError._MAX_POLL_EXCEEDED,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
    ALL_BROKERS_DOWN,
)
"""Errors among the messages after which the client continues by itself."""

COMMIT_AGAIN = (
    # Without effect if the partition is revoked meanwhile.
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._WAIT_COORD,  # noqa: SLF001
    KafkaError._NO_OFFSET,  # noqa: SLF001
    KafkaError._DESTROY,  # noqa: SLF001
    KafkaError._STATE,  # noqa: SLF001
)
"""Errors of a commit that is repeated, in addition to those that the client calls retriable."""

MAX_REASON = 300
"""Length at which the text of an error is cut."""


class Lost(Exception):  # noqa: N818 (no error by itself)
    """The session has failed; the message is the reason."""


def error_text(error: KafkaError, hide: Redaction) -> str:
    """Return the text of an error, for an operator.

    Args:
        error: the error.
        hide: removes secrets from a text.
    """
    text = f"{error.name()}: {error.str()}"
    return printable(hide(text)[:MAX_REASON])
