# SPDX-License-Identifier: Apache-2.0
"""relayctl top without a relay and a terminal: rates, sorting, keys and layout."""

from __future__ import annotations

import io
import os
import pwd
import re
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from notif_relayctl.top.keys import LEFT, QUIT, RIGHT, TAB, Keys
from notif_relayctl.top.screen import page, whole_screen
from notif_relayctl.top.traffic import Sample, between
from notif_relayctl.top.view import Frame, Order, View
from notif_relayd.control.schema import ProducerStatus, Status, SubscriberStatus


def status(pid: int = 7, count: int = 0, ring: int = 0) -> Status:
    return Status(
        version="1.2.3",
        pid=pid,
        uptime_seconds=3661.5,
        producers=1,
        subscribers=1,
        records_received=count,
        records_delivered=2 * count,
        records_dropped=5,
        records_rejected=6,
        records_discarded=7,
        bytes_received=100 * count,
        bytes_delivered=200 * count,
        ring_bytes=ring,
        ring_limit_bytes=1024,
        public_socket="/p",
        ingest_socket="/i",
    )


def producer(number: int, count: int, command: str = "nova") -> ProducerStatus:
    return ProducerStatus(number, 100 + number, command, 0, 1.0, count, 100 * count, 3)


def subscriber(number: int, count: int, lag: int = 0) -> SubscriberStatus:
    return SubscriberStatus(number, 200 + number, "jq", 0, 1.0, count, 10 * count, lag, 4)


def render(frame: Frame, lines: int | None = None) -> str:
    """Return the text of a frame: a page, or a screen with this number of lines."""
    out = io.StringIO()
    Console(file=out, width=120, height=lines).print(
        page(frame) if lines is None else whole_screen(frame, lines)
    )
    return out.getvalue()


def test_rate_is_increase_divided_by_time() -> None:
    before = Sample(10.0, status(count=100), [producer(1, 50)], [subscriber(2, 60)])
    now = Sample(12.0, status(count=300), [producer(1, 70)], [subscriber(2, 160, lag=9)])
    traffic = between(before, now)
    assert (traffic.records_in, traffic.bytes_in) == (100.0, 10_000.0)
    assert (traffic.records_out, traffic.bytes_out) == (200.0, 20_000.0)
    root = pwd.getpwuid(0).pw_name
    assert traffic.producers == [(1, 101, "nova", root, 10.0, 1000.0, 3)]
    assert traffic.subscribers == [(2, 202, "jq", root, 50.0, 500.0, 9, 4)]


def test_new_connection_counts_from_zero() -> None:
    before = Sample(10.0, status(), [], [subscriber(1, 8)])
    traffic = between(before, Sample(11.0, status(), [producer(2, 30)], []))
    assert [each.records_rate for each in traffic.producers] == [30.0]
    assert traffic.subscribers == []


def test_restarted_daemon_has_no_rates_yet() -> None:
    now = Sample(11.0, status(pid=8, count=3), [producer(1, 3)], [])
    for before in (None, Sample(10.0, status(pid=7, count=100), [producer(1, 50)], [])):
        traffic = between(before, now)
        assert traffic.records_in is traffic.bytes_out is None
        assert traffic.producers[0].records_rate is None


def test_unknown_values_sort_lowest() -> None:
    rows = [(1, 2.0), (2, None), (3, 5.0)]
    order = Order(("id", "rate"), "rate")
    assert [row[0] for row in order.apply(rows)] == [3, 1, 2]
    order.descending = False
    assert [row[0] for row in order.apply(rows)] == [2, 1, 3]


def test_keys_act_on_the_selected_table() -> None:
    view = View()
    producers, subscribers = view.orders
    for key in (RIGHT, RIGHT, "r", TAB, LEFT, "x"):
        view.press(key)
    assert (producers.column, producers.descending) == ("rejected", False)
    assert (subscribers.column, subscribers.descending) == ("user", True)
    for key in (TAB, RIGHT):
        view.press(key)
    assert producers.column == "id"


@pytest.mark.parametrize(
    ("pieces", "keys"),
    [
        ([b"q"], [QUIT]),
        ([b"\x1b[C\x1bOD\t"], [RIGHT, LEFT, TAB]),
        ([b"\x1b", b"[", b"D", b"q"], [LEFT, QUIT]),
        ([b"\x1b[", b"Aq"], ["\x1b", "[", "A", QUIT]),
        ([b"\xc3\xa9"], ["\xc3", "\xa9"]),
        ([b""], [QUIT]),
    ],
)
def test_split_escape_sequences_are_joined(pieces: list[bytes], keys: list[str]) -> None:
    reading, writing = os.pipe()
    read = []
    with open(reading, "rb"), open(writing, "wb", buffering=0) as terminal:
        terminal_keys = Keys(reading)
        for piece in pieces:
            if piece:
                terminal.write(piece)
            else:
                terminal.close()
            read += terminal_keys.read()
    assert read == keys


def test_process_name_cannot_control_the_terminal() -> None:
    now = Sample(1.0, status(), [producer(1, 0, "\x1b[2J[red]x")], [])
    frame = Frame(between(None, now), [("\x1b[2J[bold]y", 1.0)], None, None, View())
    for text in (render(frame), render(frame, lines=40)):
        assert r"\u001b[2J[red]x" in text
        assert r"\u001b[2J[bold]y" in text
        assert "\x1b" not in text


@pytest.mark.parametrize(("ring", "filled"), [(0, 0), (512, 15), (1024, 30), (5000, 30)])
def test_ring_usage_is_shown_as_a_bar(ring: int, filled: int) -> None:
    frame = Frame(between(None, Sample(1.0, status(ring=ring), [], [])), [], None, None, View())
    assert f"[{'#' * filled}{' ' * (30 - filled)}]" in render(frame)


def test_many_rows_leave_room_for_the_other_tables() -> None:
    producers = [producer(number, 0, f"nova-{number}.") for number in range(200)]
    frame = Frame(between(None, Sample(1.0, status(), producers, [])), [], None, None, View())
    text = render(frame)
    assert all(f"nova-{number}." in text for number in range(200))
    screen = render(frame, lines=24)
    assert screen.count("\n") <= 24
    assert "subscribers: 0" in screen
    assert "busiest event types" in screen
    assert "q quit" in screen


def test_values_are_dim_without_an_answer() -> None:
    traffic = between(None, Sample(1.0, status(), [producer(1, 0)], []))

    def styled(problem: str | None) -> str:
        out = io.StringIO()
        frame = Frame(traffic, [("compute.x", 2.5)], None, problem, View())
        Console(file=out, width=120, force_terminal=True, color_system="standard").print(
            page(frame)
        )
        return out.getvalue()

    current, old = styled(None), styled("no answer since noon")
    assert "no answer since noon" in old
    assert "\x1b[2m" not in current
    for value in ("in ", "ring ", "nova", "compute.x", " 2.5"):
        assert re.search(rf"\x1b\[2m[^\x1b]*{value}", old)


def test_wide_names_are_aligned_and_other_encodings_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = Sample(1.0, status(), [producer(1, 0, "日本"), producer(2, 0, "ascii")], [])
    frame = Frame(between(None, now), [("日本.x" * 30, 1.0)], None, None, View())
    text = render(frame)
    assert len({cell_len(line) for line in text.splitlines() if "root" in line}) == 1
    assert "…" in text
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "latin-1"))
    text = render(frame) + render(frame, lines=40)
    assert text.isascii()
    assert r" \u65e5\u672c " in text
    assert "records/s v" in text
