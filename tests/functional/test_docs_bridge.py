# SPDX-License-Identifier: Apache-2.0
"""The pages about the bridge: their configurations, lists of options, and examples of consumers."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from notif_relayd_bridge import main
from notif_relayd_bridge.brokers.schemes import SCHEMES
from notif_relayd_bridge.options import (
    BRIDGE,
    bridge_options,
    command_line,
    inbound_options,
    outbound_options,
)
from support import doc_blocks
from support.bridge import RealBridge, running_bridge
from support.doc_blocks import ROOT, Block
from support.mock_kafka import MockKafka
from support.nats_server import NatsServer, needs_nats
from support.rabbitmq import Broker, needs_rabbitmq
from support.records import record
from support.relay import Relay
from support.waiting import kill, wait_until

HOWTO, MAN = "howto/bridge.rst", "man/notif-relayd-bridge.8.rst"

CONFIGURATIONS = [
    block for page in (HOWTO, MAN) for block in doc_blocks.rst(page) if block.language == "ini"
]

NAMES = re.compile(r"``([\w.]+)``(?: = \w+)?")


def consumer(section: str) -> str:
    [block] = [
        block
        for block in doc_blocks.rst(HOWTO)
        if (block.section, block.language) == (section, "python")
    ]
    return block.text


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("block", CONFIGURATIONS, ids=lambda block: block.text.split()[3])
def test_configuration_is_valid(
    block: Block, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "region-1.conf"
    path.write_text(block.text)
    status = main.main(["--config-file", str(path), "--check"])
    assert (status, capsys.readouterr()) == (0, ("ok\n", ""))


def test_how_to_has_five_lines_at_most_for_each_broker() -> None:
    blocks = [each for each in doc_blocks.rst(HOWTO) if each.language == "ini"]
    lines = {each.section: len(each.lines) for each in blocks}
    assert lines.keys() == {"RabbitMQ", "Kafka", "NATS", "From a broker to a relay"}
    assert max(lines.values()) <= 5
    assert lines["From a broker to a relay"] == 3


def documented(section: str) -> set[str]:
    """Return the names in the terms of a section, and in its lists of properties."""
    text = (ROOT / "docs" / MAN).read_text()
    [found] = re.findall(rf"^\[{section}\]\n-+\n(.*?)(?=^\S+\n[-=]+\n)", text, re.M | re.S)
    terms = re.findall(r"^``.+``$(?=\n    \S)", found, re.MULTILINE)
    lists = re.findall(r"^(?:    (?:``[\w.]+``,? ?)+\n)+", found, re.MULTILINE)
    return {name for part in (*terms, *lists) for name in NAMES.findall(part)}


def scheme_options(section: str) -> list[cfg.Opt]:
    """Return the options of a section for both directions."""
    scheme = SCHEMES[section]
    [(_, options)] = scheme.options()
    [(_, more)] = scheme.source_options()
    return options + more


@pytest.mark.parametrize("section", [BRIDGE, "kafka", "nats"])
def test_man_page_lists_exactly_the_options(section: str) -> None:
    options = [*bridge_options(), *outbound_options(), *inbound_options()]
    if section != BRIDGE:
        options = scheme_options(section)
    assert documented(section) == {each.name for each in options}


def test_man_page_lists_existing_options_of_rabbitmq() -> None:
    known = {each.name for _, options in SCHEMES["rabbit"].options() for each in options}
    listed = documented("oslo_messaging_rabbit")
    assert "amqp_durable_queues" in listed
    assert listed <= known


def test_man_page_lists_the_options_of_the_command() -> None:
    text = (ROOT / "docs" / MAN).read_text()
    assert [each.name for each in command_line() if f"\n``--{each.name}``\n" not in text] == []


@contextlib.contextmanager
def running(program: str, directory: Path) -> Iterator[Path]:
    """Run an example, and yield the file with its output."""
    output = directory / "consumer.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-u", "-c", program], stdout=file, stderr=file
        )
    try:
        yield output
    finally:
        kill(process)


def check_consumer(program: str, url: str, directory: Path, relay: Relay) -> None:
    """Check that an example prints a notification that a bridge has sent."""
    with (
        running(program, directory) as output,
        running_bridge(directory, relay, url, RealBridge) as bridge,
        relay.produce() as producer,
    ):
        bridge.wait_logged("connected to the broker")
        producer.sendall(record("compute.instance.create", publisher_id="nova"))
        wait_until(lambda: b"\n" in output.read_bytes(), "the consumer prints a line")
        assert re.fullmatch(r"nova compute\.instance\.create\b.*\n", output.read_text())


@needs_rabbitmq
def test_consumer_of_rabbitmq_reads(broker: Broker, directory: Path, relay: Relay) -> None:
    program, count = re.subn(r'"rabbit://.*"', f'"{broker.url()}"', consumer("RabbitMQ"))
    # The exchange of other tests is not durable.
    program = program.replace('"amqp_durable_queues", True', '"amqp_durable_queues", False')
    assert count == 1
    with broker.channel() as channel:
        channel.queue_delete("notifications.info")
    check_consumer(program, broker.url(), directory, relay)


def test_consumer_of_kafka_reads(directory: Path, relay: Relay) -> None:
    with MockKafka() as cluster:
        program = re.sub(r".*(sasl|security).*\n", "", consumer("Kafka"))
        program, count = re.subn(r"kafka-1[\w.:]+", cluster.servers, program)
        assert count == 1
        for priority in ("info", "warn", "error"):
            cluster.command("topic", f"notifications.{priority}", 1)
        check_consumer(program, cluster.url, directory, relay)


@needs_nats
def test_consumer_of_nats_reads(directory: Path, relay: Relay) -> None:
    with NatsServer(directory) as server:
        server.add_stream()
        program, count = re.subn(r'"nats://.*"', f'"{server.url}"', consumer("NATS"))
        assert count == 1
        check_consumer(program, server.url, directory, relay)
