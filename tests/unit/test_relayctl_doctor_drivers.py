# SPDX-License-Identifier: Apache-2.0
"""Verdicts of relayctl doctor on each combination of notify drivers."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

import pytest

from notif_relay import paths
from notif_relayctl.doctor import drivers
from notif_relayctl.doctor.destination import Sockets
from notif_relayctl.doctor.drivers import Options
from notif_relayctl.doctor.finding import Finding
from support.doctor_cases import SAMPLE

DIRECTORY = "/run/relay"
SOCKETS = Sockets([f"{DIRECTORY}/notifications.sock"], [f"{DIRECTORY}/ingest.sock"])
PUBLIC = SOCKETS.public[0]

EVERY = ("unix", "log", "messagingv2", "messaging", "routing", "noop")


@pytest.fixture
def logging_file(tmp_path: Path) -> str:
    """Return a logging file with the relay's handler."""
    path = tmp_path / "logging.conf"
    path.write_text(SAMPLE.read_text().replace(paths.RUNTIME_DIR, DIRECTORY))
    return os.fspath(path)


@pytest.fixture
def routing_file(tmp_path: Path) -> str:
    """Return a routing file that names the driver unix."""
    path = tmp_path / "routing.yaml"
    path.write_text("all: {unix: {accepted_events: ['*']}}\n")
    return os.fspath(path)


def examine(options: Options) -> list[Finding]:
    return list(drivers.examine("service x", options, SOCKETS))


def results(options: Options) -> dict[str, str]:
    """Return the last result of each check."""
    return {each.check.removeprefix("service x "): each.result for each in examine(options)}


def test_every_combination_that_duplicates_is_found(logging_file: str, routing_file: str) -> None:
    for size in range(1, len(EVERY) + 1):
        for chosen in itertools.combinations(EVERY, size):
            for transport, log in itertools.product((None, PUBLIC), (None, logging_file)):
                options = Options(chosen, transport, PUBLIC, None, routing_file, log)
                arriving = [
                    each
                    for each in chosen
                    if each in ("unix", "routing")
                    or (each == "log" and log)
                    or (each.startswith("messaging") and transport)
                ]
                found = examine(options)
                advice = [each.advice for each in found if each.advice.startswith("keep one of")]
                failed = [each for each in found if each.result == "failed"]
                assert bool(advice) == (len(arriving) > 1), (options, found)
                assert bool(failed) == (not arriving), (options, found)
                for each in arriving if advice else ():
                    assert each in advice[0]


CASES = {
    "log beside unix": (Options(["log", "unix"], None, PUBLIC), {"unix": "ok", "log": "ok"}),
    "order": (Options(["unix", "log"], None, PUBLIC), {"unix": "ok", "log": "ok"}),
    "unix twice": (Options(["unix", "unix"], None, PUBLIC), {"unix": "ok"}),
    "an empty line": (Options(["", "unix"], None, PUBLIC), {"unix": "ok"}),
    "noop beside unix": (Options(["noop", "unix"], None, PUBLIC), {"unix": "ok"}),
    "a broker beside unix": (Options(["messagingv2", "unix"], None, PUBLIC), {"unix": "ok"}),
    "transport": (Options(["messagingv2"], PUBLIC), {"messagingv2": "ok"}),
    "transport beside log": (
        Options(["messaging", "log"], PUBLIC),
        {"messaging": "ok", "log": "ok"},
    ),
    "transport to nowhere beside unix": (
        Options(["messagingv2", "unix"], "/nowhere/x.sock", PUBLIC),
        {"unix": "ok", "messagingv2": "warning"},
    ),
    "unix to nowhere beside the transport": (
        Options(["messagingv2", "unix"], PUBLIC, "/nowhere/x.sock"),
        {"unix": "warning", "messagingv2": "ok"},
    ),
    "both to nowhere": (
        Options(["messagingv2", "unix"], "/nowhere/x.sock", "/nowhere/x.sock"),
        {"unix": "failed", "messagingv2": "warning"},
    ),
    "unix without a path beside log": (
        Options(["unix", "log"]),
        {"unix": "failed", "log": "ok"},
    ),
    "routing without a file beside unix": (
        Options(["routing", "unix"], None, PUBLIC),
        {"unix": "ok", "routing": "warning"},
    ),
    "ingest_path applies to the transport": (
        Options(["messagingv2"], "/nowhere/x.sock", None, SOCKETS.ingest[0]),
        {"messagingv2": "ok"},
    ),
    "a missing logging file ends the service": (
        Options(["log", "unix"], None, PUBLIC, None, None, "/nowhere/logging.conf"),
        {"unix": "ok", "log": "failed"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_verdict_on_each_driver(name: str) -> None:
    options, expected = CASES[name]
    assert results(options) == {"driver": "ok", **expected}


@pytest.mark.parametrize("files", [[], ["notifications.sock", "ingest.sock"]])
def test_another_relay_beside_this_one_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str]
) -> None:
    monkeypatch.setattr(paths, "RUNTIME_DIR", os.fspath(tmp_path))
    for name in files:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(tmp_path / name))
    options = Options(["messagingv2", "unix"], os.fspath(tmp_path / "notifications.sock"), PUBLIC)
    expected = "ok" if files else "warning"
    assert results(options) == {"driver": "ok", "unix": "ok", "messagingv2": expected}


def test_advice_corrects_only_one_driver() -> None:
    found = examine(Options(["unix", "messagingv2", "log"], "/nowhere/x.sock"))
    advised = [each.advice for each in found if each.advice]
    assert advised == [
        f"set sock_path in [{drivers.SECTION}] to {PUBLIC}",
        "remove the line driver = messagingv2: one driver for the relay is enough",
    ]
