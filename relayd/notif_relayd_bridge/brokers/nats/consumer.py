# SPDX-License-Identifier: Apache-2.0
"""Creates the durable consumer of JetStream that stores the position of a bridge."""

from __future__ import annotations

from dataclasses import dataclass

import nats.js.errors
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.manager import JetStreamManager

from notif_relayd_bridge.brokers.nats.link import Lost
from notif_relayd_bridge.brokers.nats.source_settings import SourceSettings


@dataclass(frozen=True, slots=True)
class DurableConsumer:
    """A consumer that exists."""

    stream: str
    name: str
    pending: int
    """Number of messages that were delivered and not acknowledged, maybe to another bridge."""


async def prepare(manager: JetStreamManager, settings: SourceSettings) -> DurableConsumer:
    """Create the consumer, or update it.

    Raises:
        Lost: the stream does not exist, or the consumer has properties that the bridge cannot use.
        nats.errors.Error: the server does not answer, or refuses this.
    """
    stream = settings.stream or await _find_stream(manager, settings)
    wanted = _config(settings)
    try:
        info = await manager.consumer_info(stream, settings.consumer)
    except nats.js.errors.NotFoundError:
        info = await manager.add_consumer(stream, wanted)
    else:
        info = await _update(manager, info, wanted)
    if _subjects(info.config) != settings.subjects:
        raise Lost(
            "the server does not support several subjects of a consumer: set one topic in "
            "[bridge], or use version 2.10 of the server"
        )
    return DurableConsumer(stream, settings.consumer, info.num_ack_pending or 0)


async def _find_stream(manager: JetStreamManager, settings: SourceSettings) -> str:
    found = set()
    for subject in settings.subjects:
        try:
            found.add(await manager.find_stream_name_by_subject(subject))
        except nats.js.errors.NotFoundError:
            raise Lost(
                f"no stream has the subject {subject}: create one, or correct [bridge] topics"
            ) from None
    if len(found) > 1:
        raise Lost("the topics are in several streams: set [nats] stream")
    return found.pop()


def _config(settings: SourceSettings) -> ConsumerConfig:
    config = ConsumerConfig(
        name=settings.consumer,
        durable_name=settings.consumer,
        deliver_policy=DeliverPolicy(settings.deliver_policy),
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=settings.ack_wait,
        max_ack_pending=settings.max_ack_pending,
    )
    if len(settings.subjects) == 1:
        return config.evolve(filter_subject=settings.subjects[0])
    return config.evolve(filter_subjects=settings.subjects)


async def _update(
    manager: JetStreamManager, info: ConsumerInfo, wanted: ConsumerConfig
) -> ConsumerInfo:
    """Change what the configuration determines; the position of the consumer stays."""
    config = info.config
    if config.deliver_subject is not None or config.ack_policy != AckPolicy.EXPLICIT:
        raise Lost(
            f"the consumer {info.name} is not one of a bridge: delete it, or set another pool in "
            "[bridge]"
        )
    changed = config.evolve(
        ack_wait=wanted.ack_wait,
        max_ack_pending=wanted.max_ack_pending,
        filter_subject=wanted.filter_subject,
        filter_subjects=wanted.filter_subjects,
    )
    if changed == config:
        return info
    return await manager.add_consumer(info.stream_name, changed)


def _subjects(config: ConsumerConfig) -> list[str]:
    return config.filter_subjects or [config.filter_subject or ""]
