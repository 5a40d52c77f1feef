# SPDX-License-Identifier: Apache-2.0
"""The bytes that the handler sends to a private socket that takes all of them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator

import pytest

from notif_relay import HandlerStats, RelayHandler
from notif_relay.records import MAX_RECORD_SIZE
from support.private_socket import PrivateSocket
from support.records import numbered_text, record
from support.waiting import TIMEOUT


@pytest.fixture
def handler(private: PrivateSocket) -> Iterator[RelayHandler]:
    handler = RelayHandler(private.path, max_wait=TIMEOUT)
    yield handler
    handler.close()


@pytest.fixture
def logger(handler: RelayHandler) -> logging.Logger:
    logger = logging.Logger("oslo.messaging.notification")
    logger.addHandler(handler)
    return logger


class Text:
    """A message that is not a string."""

    def __str__(self) -> str:
        return record().decode().rstrip("\n")


def test_message_arrives_unchanged_plus_newline(
    private: PrivateSocket, logger: logging.Logger
) -> None:
    message = '{ "event_type": "a",\t"priority" :"INFO", "payload": "100 % \\n ä \U0001f600" }\r'
    logger.info(message)
    logger.info(message.replace("100 % ", "%d %% "), 100)
    logger.info(Text())
    with private.accept() as incoming:
        assert incoming.line() == message.encode() + b"\n"
        assert incoming.line() == message.encode() + b"\n"
        assert incoming.line() == record()


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("{\n  FIELDS\n}", "{   FIELDS }\n"),
        ("{FIELDS}\n", "{FIELDS}\n"),
        ("{FIELDS}\n\n", "{FIELDS} \n"),
        ("{FIELDS}\r\n", "{FIELDS}\r\n"),
    ],
)
def test_newline_in_white_space_does_not_end_a_record(
    private: PrivateSocket, logger: logging.Logger, message: str, line: str
) -> None:
    fields = '"event_type": "a", "priority": "INFO"'
    logger.info(message.replace("FIELDS", fields))
    logger.info(record().decode())
    with private.accept() as incoming:
        assert incoming.line() == line.replace("FIELDS", fields).encode()
        assert incoming.line() == record()


def test_formatter_is_ignored(
    private: PrivateSocket, handler: RelayHandler, logger: logging.Logger
) -> None:
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.info(record().decode())
    with private.accept() as incoming:
        assert incoming.line() == record()


def test_only_records_over_the_limit_are_dropped(
    private: PrivateSocket,
    handler: RelayHandler,
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    sizes = (100, 100_000, MAX_RECORD_SIZE, MAX_RECORD_SIZE + 1, 150)

    def log() -> None:
        for size in sizes:
            logger.info(numbered_text(0, size))

    thread = threading.Thread(target=log)
    thread.start()
    with private.accept() as incoming:
        assert [len(incoming.line()) for _ in range(4)] == [100, 100_000, MAX_RECORD_SIZE, 150]
    thread.join(TIMEOUT)
    assert handler.stats() == HandlerStats(sent=4, dropped=1, reconnects=0, connected=True)


def test_threads_share_a_handler(
    private: PrivateSocket, handler: RelayHandler, logger: logging.Logger
) -> None:
    number_of_threads, each = 8, 400

    def log(thread: int) -> None:
        for number in range(each):
            fields = record(thread=thread, number=number, x="x" * (number * 37))
            logger.info(fields.decode())

    threads = [threading.Thread(target=log, args=(n,)) for n in range(number_of_threads)]
    for thread in threads:
        thread.start()
    numbers: dict[int, list[int]] = {n: [] for n in range(number_of_threads)}
    with private.accept() as incoming:
        for _ in range(number_of_threads * each):
            fields = json.loads(incoming.line())
            assert fields["x"] == "x" * (fields["number"] * 37)
            numbers[fields["thread"]].append(fields["number"])
    for thread in threads:
        thread.join(TIMEOUT)
    assert all(received == list(range(each)) for received in numbers.values())
    assert handler.stats().sent == number_of_threads * each


def test_first_record_opens_the_connection(
    private: PrivateSocket, handler: RelayHandler, logger: logging.Logger
) -> None:
    handler.flush()
    assert not private.has_pending()
    logger.info(record().decode())
    assert handler.stats().connected
    private.accept().close()


def test_record_after_close_reconnects(
    private: PrivateSocket, handler: RelayHandler, logger: logging.Logger
) -> None:
    for number in range(3):
        logger.info(numbered_text(number))
        with private.accept() as incoming:
            assert json.loads(incoming.line())["number"] == number
            handler.close()
            handler.close()
            assert incoming.read_to_end() == b""
    assert handler.stats() == HandlerStats(sent=3, dropped=0, reconnects=2, connected=False)
