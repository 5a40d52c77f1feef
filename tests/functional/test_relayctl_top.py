# SPDX-License-Identifier: Apache-2.0
"""relayctl top in a terminal with keys, and in a pipe."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.records import record
from support.relay import RunningRelay, connect, running_relay
from support.relayctl import RELAYCTL, assert_error, needs_root, relayctl, relayctl_as_nobody
from support.terminal import CTRL_C, LEFT, RIGHT, TAB, Terminal
from support.waiting import TIMEOUT


@contextlib.contextmanager
def traffic(relay: RunningRelay) -> Iterator[None]:
    """Run a producer that never pauses and a subscriber that reads everything."""
    done = threading.Event()

    def flow() -> None:
        with relay.produce() as producer, relay.subscribe() as subscriber:
            while not done.is_set():
                producer.sendall(record("compute.often") * 3 + record("volume.seldom"))
                subscriber.lines(4)

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        relay.wait_status(producers=1, subscribers=1)
        yield
    finally:
        done.set()
        thread.join(TIMEOUT)


def top(
    relay: RunningRelay, *arguments: str, environment: Mapping[str, str] | None = None
) -> Terminal:
    return Terminal(
        *(RELAYCTL, "--runtime-dir", os.fspath(relay.directory), "top", "-d", "0.1", *arguments),
        last_text="r reverse",
        environment=environment,
    )


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_batch_frame_has_rates_rows_and_event_types(relay: RunningRelay) -> None:
    with traffic(relay):
        done = relayctl(relay.directory, "top", "-n", "1", "--batch", "-d", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.count("notif-relayd ") == 1
    assert f"pid {relay.process.pid}," in done.stdout
    received, delivered = re.findall(r"^(?:in|out) +([\d,.]+) records/s", done.stdout, re.M)
    assert number(received) > 0
    assert number(received) <= number(delivered)
    assert "producers: 1 " in done.stdout
    assert "subscribers: 2 " in done.stdout
    assert re.search(
        rf"^ +\d+ +{os.getpid()} +\S+ +\S+ +[\d,]+\.\d +[\d,.]+ \w+ +0 +$", done.stdout, re.M
    )
    often, seldom = re.findall(r"^ (\S+\.\S+) +([\d,]+\.\d) +$", done.stdout, re.M)
    assert (often[0], seldom[0]) == ("compute.often", "volume.seldom")
    assert number(often[1]) == pytest.approx(3 * number(seldom[1]), rel=0.1)


def test_number_of_frames_is_an_option(relay: RunningRelay) -> None:
    done = relayctl(relay.directory, "top", "-n", "3", "--batch", "-d", "0.1")
    assert done.stdout.count("notif-relayd ") == 3


def test_screen_is_updated_and_q_ends_it(relay: RunningRelay) -> None:
    with top(relay) as terminal:
        terminal.wait_for(r"producers: 0")
        with connect(relay.ingest) as producer:
            terminal.wait_for(rf"producers: 1\b[^\n]*\n[^\n]*\n +\d+ +{os.getpid()} ")
            producer.sendall(record("compute.seen") * 7)
            terminal.wait_for(r"compute\.seen +\d+\.\d")
        terminal.wait_for(r"producers: 0")
        terminal.press(b"q")
        assert terminal.finish() == 0
        assert terminal.is_restored()


def test_keys_select_table_column_and_order(relay: RunningRelay) -> None:
    with connect(relay.public), connect(relay.public), top(relay) as terminal:
        terminal.wait_for(r"rejected[^▼]*subscribers: 3")
        assert terminal.screen.count("records/s▼") == 2
        terminal.press(RIGHT)
        terminal.wait_for(r"bytes/s▼(.|\n)*records/s▼")
        terminal.press(TAB + LEFT * 4)
        terminal.wait_for(r"bytes/s▼(.|\n)* id▼")
        terminal.press(b"r")
        terminal.wait_for(r" id▲")
        ids = re.findall(r"^ +(\d+) +\d+ ", terminal.screen, re.M)
        assert ids == sorted(ids, key=int)
        terminal.press(b"r")
        terminal.wait_for(r"bytes/s▼(.|\n)* id▼")
        assert re.findall(r"^ +(\d+) +\d+ ", terminal.screen, re.M) == ids[::-1]
        terminal.press(LEFT)
        terminal.wait_for(r"dropped▼")
        terminal.press(b"q")
        assert terminal.finish() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_ends_it_and_restores_the_terminal(
    relay: RunningRelay, number: signal.Signals
) -> None:
    with top(relay) as terminal:
        terminal.wait_for(r"subscribers: 1")
        if number == signal.SIGINT:
            terminal.press(CTRL_C)
        else:
            terminal.signal(number)
        assert terminal.finish() == 128 + number
        assert terminal.is_restored()
        assert "Traceback" not in terminal.output
        assert "relayctl:" not in terminal.output


def test_ctrl_z_restores_the_terminal_until_it_continues(relay: RunningRelay) -> None:
    with top(relay, environment={"COLUMNS": "0", "LINES": "0"}) as terminal:
        terminal.wait_for(r"subscribers: 1")
        terminal.stop()
        assert terminal.is_restored()
        terminal.signal(signal.SIGCONT)
        with connect(relay.ingest):
            terminal.wait_for(r"producers: 1")
        terminal.press(b"q")
        assert terminal.finish() == 0
        assert terminal.output.count("\x1b[?1049h") == 2
        assert terminal.is_restored()


def test_dumb_terminal_is_an_error_that_suggests_batch(relay: RunningRelay) -> None:
    with top(relay, environment={"TERM": "dumb"}) as terminal:
        assert terminal.finish() == 1
        assert "TERM=dumb" in terminal.output
        assert "--batch" in terminal.output


def test_top_continues_after_a_restart_of_the_relay(directory: Path) -> None:
    with running_relay(directory) as relay:
        terminal = top(relay)
        pid = relay.process.pid
        with terminal:
            terminal.wait_for(rf"pid {pid}\b")
            assert relay.stop() == 0
            terminal.wait_for(r"no answer since [\d-]+ [\d:]+: the daemon is not running")
            (directory / "notify.sock").unlink()
            with running_relay(directory) as again:
                terminal.wait_for(rf"pid {again.process.pid}\b")
                terminal.wait_for(r"subscribers: 1")
                assert "not running" not in terminal.screen
                terminal.press(b"q")
                assert terminal.finish() == 0


def test_screen_has_only_characters_of_the_encoding(relay: RunningRelay) -> None:
    with top(relay, environment={"PYTHONIOENCODING": "latin-1"}) as terminal:
        terminal.wait_for("left/right sort by column   r reverse")
        assert "records/s v" in terminal.screen
        assert terminal.screen.isascii()


def test_error_without_a_terminal_suggests_batch(relay: RunningRelay) -> None:
    assert_error(relayctl(relay.directory, "top"), 1, "terminal", "--batch")


def test_missing_relay_is_an_error(directory: Path) -> None:
    assert_error(relayctl(directory, "top", "--batch"), 3, "not running")


@needs_root
def test_event_types_need_permission_to_subscribe(relay: RunningRelay) -> None:
    relay.directory.chmod(0o755)
    relay.control.chmod(0o666)
    relay.public.chmod(0o600)
    done = relayctl_as_nobody(relay.directory, "top", "-n", "1", "--batch", "-d", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "subscribers: 0" in done.stdout
    assert f"not shown: you may not connect to {relay.public}" in done.stdout
