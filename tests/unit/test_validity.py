# SPDX-License-Identifier: Apache-2.0
"""The library's check of notifications: it finds what the relay rejects, and nothing else."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notif_relay import InvalidRecord, RelayHandler, records
from notif_relay.validity import UsualForm, check, describe
from notif_relay.warning_limit import INTERVAL, MAX_WARNINGS, WarningLimit
from notif_relayd.records.validator import Validator

LOG_DRIVER = {
    "message_id": "5b1a3c44-0000-0000-0000-000000000000",
    "publisher_id": "compute.host-1",
    "event_type": "compute.instance.create.end",
    "priority": "INFO",
    "payload": {"state": "active", "note": '{} " \\ ä'},
    "timestamp": "2026-01-31 12:00:00.123456",
}


def with_fields(**fields: object) -> str:
    return json.dumps(LOG_DRIVER | fields)


def is_accepted_by_relay(notification: str) -> bool:
    line = notification.removesuffix("\n").replace("\n", " ").encode() + b"\n"
    return not Validator(1 << 20).validate(line).rejected


def is_usual(notification: str) -> bool:
    """Return whether the library accepts a notification without decoding it, at any time."""
    usual = UsualForm()
    is_usual_at_first = usual.matches(notification)
    for other in (json.dumps(LOG_DRIVER), '{"event_type": "a", "priority": "b"}'):
        assert usual.matches(other)
        assert usual.matches(notification) == is_usual_at_first
        assert usual.matches(notification) == is_usual_at_first
    return is_usual_at_first


def is_accepted_by_library(notification: str) -> bool:
    if is_usual(notification):
        return True
    try:
        check(notification)
    except InvalidRecord:
        return False
    return True


def test_notifications_of_the_log_driver_are_not_decoded() -> None:
    assert is_usual(json.dumps(LOG_DRIVER))
    assert is_usual(with_fields(_topic="t", _context={"user": "a"}))
    assert is_usual('{"event_type": "a", "priority": "b"}')


INVALID = {
    "NaN": (with_fields(payload={"load": float("nan")}), "NaN is not JSON"),
    "infinity": (with_fields(payload=[float("inf")]), "Infinity is not JSON"),
    "minus infinity": (with_fields(payload=float("-inf")), "-Infinity is not JSON"),
    "nested NaN": (with_fields(payload={"a": [{"b": [float("nan")]}]}), "NaN is not JSON"),
    "no event_type": ('{"priority": "INFO"}', "not a JSON object with event_type"),
    "no priority": ('{"event_type": "a"}', "not a JSON object with priority"),
    "null": (with_fields(event_type=None), "event_type is not a string, but null"),
    "true": (with_fields(event_type=True), "event_type is not a string, but true"),
    "number": (with_fields(event_type=5), "event_type is not a string, but 5"),
    "list": (with_fields(event_type=["a"]), "event_type is not a string, but a list"),
    "object": (with_fields(event_type={"a": 1}), "event_type is not a string, but an object"),
    "priority": (with_fields(priority=30), "priority is not a string, but 30"),
    "first of two": ('{"event_type": 1, "event_type": "a", "priority": "b"}', "but 1"),
    "reserved": (with_fields(event_type="notif_relayd.error"), "is reserved for the relay"),
    "escaped": ('{"event_type":"\\u006eotif_relayd.x","priority":"a"}', "is reserved"),
    "gap": (with_fields(event_type="notif_relayd.gap"), "malformed gap record"),
    "text": ("not JSON at all", "it is not JSON"),
    "brace": ("none}", "it is not JSON"),
    "list of records": (f"[{json.dumps(LOG_DRIVER)}]", "not a JSON object"),
    "empty": ("", "it is not JSON"),
    "two records": (json.dumps(LOG_DRIVER) + json.dumps(LOG_DRIVER) + " ", "it is not JSON"),
    "Python's repr": (repr(LOG_DRIVER), "it is not JSON"),
    "surrogate": ('{"event_type": "\ud83d", "priority": "a"} ', "encoded as UTF-8"),
}


@pytest.mark.parametrize("notification", INVALID)
def test_invalid_notification_is_explained(notification: str) -> None:
    text, reason = INVALID[notification]
    assert not is_usual(text)
    with pytest.raises(InvalidRecord) as raised:
        check(text)
    assert reason in raised.value.reason
    if "surrogate" not in notification:
        assert not is_accepted_by_relay(text)


VALID = {
    "text about NaN": with_fields(payload="NaN and Infinity"),
    "escapes": with_fields(event_type='a"\\b'),
    "surrogate escape": '{"event_type": "\\ud83d", "priority": "a"}',
    "large number": '{"event_type": "a", "priority": "b", "x": %s}' % ("1" * 5000),
    "large exponent": '{"event_type": "a", "priority": "b", "x": 1e999}',
    "other order": '{"priority":"b","event_type":"a"}',
    "white space": ' \t{ "event_type" : "a" ,\r\n"priority" : "b" }\r\n',
    "gap record": records.gap(3, "producer_congested").decode().rstrip(),
    "duplicate": '{"event_type": "a", "event_type": "b", "priority": "c"}',
}


@pytest.mark.parametrize("notification", VALID)
def test_valid_notification_passes(notification: str) -> None:
    assert is_accepted_by_library(VALID[notification])
    assert is_accepted_by_relay(VALID[notification])


def nested(levels: int, inner: str = "") -> str:
    return f'{{"event_type": "a", "priority": "b", "x": {"[" * levels}{inner}{"]" * levels}}}'


@pytest.mark.parametrize(
    "notification", [nested(9_900), nested(9_900, json.dumps("[" * 200 + '"' + "[" * 200))]
)
def test_nested_notification_is_left_to_the_relay(notification: str) -> None:
    check(notification)


@pytest.mark.parametrize("levels", [11_000, 100_000])
def test_notification_that_no_relay_decodes_is_explained(levels: int) -> None:
    with pytest.raises(InvalidRecord, match="nested too deeply"):
        check(nested(levels))
    assert not is_accepted_by_relay(nested(levels))


def test_handler_accepts_a_record_without_a_process(tmp_path: Path) -> None:
    """A record that another library made need not have all attributes."""
    handler = RelayHandler(tmp_path / "ingest.sock")
    record = logging.makeLogRecord({"msg": json.dumps(LOG_DRIVER)})
    del record.process
    handler.handle(record)
    assert handler.stats().dropped == 1  # there is no relay


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "event_type": JSON | st.sampled_from(["notif_relayd.gap", "notif_relayd.x", "a"]),
            "priority": JSON | st.just("INFO"),
            "publisher_id": JSON,
            "payload": JSON | st.just({"dropped": 1, "reason": "producer_congested"}),
        },
    ),
    st.booleans(),
)
@example({"event_type": "a", "priority": "b", "payload": "\ud800"}, True)
def test_library_and_relay_agree(fields: dict[str, object], is_ascii: bool) -> None:
    text = json.dumps(fields, ensure_ascii=is_ascii)
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert is_accepted_by_library(text) == is_accepted_by_relay(text)


@pytest.mark.parametrize(
    ("notification", "description"),
    [
        (json.dumps(LOG_DRIVER), 'notification "compute.instance.create.end"'),
        (with_fields(event_type=5), "notification 5"),
        ("plain\ntext", r"notification that begins with 'plain\ntext'"),
        ("x" * 2_000_000, f"notification that begins with '{'x' * 96}..."),
        ('{"event_type": "a\x1b[2J\u202e"}', r'notification "a\x1b[2J\u202e"'),
    ],
)
def test_description_is_one_short_printable_line(notification: str, description: str) -> None:
    assert describe(notification) == description


@pytest.fixture
def logger(tmp_path: Path) -> logging.Logger:
    logger = logging.Logger("oslo.messaging.notification")
    logger.addHandler(RelayHandler(tmp_path / "none"))
    return logger


def handler_of(logger: logging.Logger) -> RelayHandler:
    (handler,) = logger.handlers
    assert isinstance(handler, RelayHandler)
    return handler


@pytest.mark.parametrize(
    ("notification", "problem"),
    [
        (with_fields(payload={"load": float("nan")}), "NaN is not JSON"),
        (with_fields(event_type=None), "event_type is not a string, but null"),
        (with_fields(payload="x" * 2_000_000), "max_record_size is 1048576 bytes"),
        (with_fields(payload="x" * 2_000_000 + "NaN"), "max_record_size is 1048576 bytes"),
        ('{"event_type": "a", "priority": "b", "x": "\ud83d"}', "surrogates not allowed"),
        ("", "it is not JSON"),
    ],
)
def test_handler_warns_once_in_one_line_and_counts(
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    notification: str,
    problem: str,
) -> None:
    for number in (1, 2):
        logger.info(notification)
        assert handler_of(logger).stats().dropped == number
    messages = [each.getMessage() for each in caplog.records]
    assert [each.levelname for each in caplog.records] == ["WARNING"] * 2
    for number, message in enumerate(messages, start=1):
        assert problem in message
        assert f"({number} records dropped so far)" in message
        assert "\n" not in message
        assert len(message) < 400
    assert capsys.readouterr().err == ""


def test_handler_limits_its_warnings(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10 * MAX_WARNINGS):
        logger.info("not a notification")
    assert len(caplog.messages) == MAX_WARNINGS
    assert handler_of(logger).stats().dropped == 10 * MAX_WARNINGS


def test_warnings_are_allowed_again_after_an_interval() -> None:
    now = 0.0
    limit = WarningLimit(lambda: now)
    for _ in range(3):
        assert [limit.allows() for _ in range(2 * MAX_WARNINGS)].count(True) == MAX_WARNINGS
        now += INTERVAL


@pytest.mark.parametrize("before", [None, json.dumps(LOG_DRIVER), VALID["duplicate"]])
def test_handler_drops_what_the_relay_rejects(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture, before: str | None
) -> None:
    """Also after a valid notification, whose head the handler remembers."""
    for name, (text, reason) in INVALID.items():
        if before is not None:
            logger.info(before)
        caplog.clear()
        logger.info(text)
        (warning,) = caplog.messages
        assert reason in warning or name == "surrogate"
    caplog.clear()
    for text in VALID.values():
        logger.info(text)
    assert not caplog.messages


def test_text_after_a_remembered_head_is_checked(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for value in ("text", "N", "I", "NaN", "Infinity", "aN", "nfinity", "NaNs", "\u20ac N"):
        for ensure_ascii in (True, False):
            logger.info(json.dumps(LOG_DRIVER | {"payload": value}, ensure_ascii=ensure_ascii))
    assert not caplog.messages
    for number in (float("nan"), float("inf"), float("-inf")):
        for payload in (number, [number], {"a": number}, [1, number], {"I": "N", "b": [number]}):
            logger.info(with_fields(payload=payload))
    logger.info(json.dumps(LOG_DRIVER)[:-1])
    assert len(caplog.messages) == 16


def test_warning_that_returns_to_the_handler_ends_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator may attach the handler to the root logger."""
    handlers = [RelayHandler(tmp_path / "none"), RelayHandler(tmp_path / "other")]
    root = logging.getLogger()
    for handler in handlers:
        root.addHandler(handler)
    try:
        logging.getLogger("service").warning("not a notification")
    finally:
        for handler in handlers:
            root.removeHandler(handler)
    assert 2 <= len([each for each in caplog.messages if "it is not JSON" in each]) <= 4


def test_warning_is_logged_although_its_logger_is_disabled(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """logging.config disables the loggers that exist before it is called."""
    monkeypatch.setattr(logging.getLogger("notif_relay.handler"), "disabled", True)
    logger.info("not a notification")
    assert "it is not JSON" in caplog.text
