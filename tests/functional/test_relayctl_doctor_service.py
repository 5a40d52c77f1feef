# SPDX-License-Identifier: Apache-2.0
"""The verdict of relayctl doctor on a service's configuration matches its effect.

Each configuration is examined by the doctor, and loaded by a process that emits a notification as
services do. The notification must arrive if and only if the doctor reports no failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.doctor import Row
from support.doctor_cases import (
    ARGS,
    CASES,
    DRIVER,
    SAMPLE,
    SOCK_PATH,
    Case,
)
from support.private_socket import PrivateSocket
from support.relay import quiet_environment
from support.relayctl import needs_root, relayctl, relayctl_as_nobody
from support.waiting import TIMEOUT

SERVICE = """
import os, sys
sys.stderr = sys.stdout
from oslo_config import cfg
from oslo_log import log
import oslo_messaging

for path in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    config_dirs = [path + ".d"] if os.path.isdir(path + ".d") else []
    log.register_options(cfg.CONF)
    cfg.CONF([], project="nova", default_config_files=[path], default_config_dirs=config_dirs)
    log.setup(cfg.CONF, "nova")
    transport = oslo_messaging.get_notification_transport(cfg.CONF, url="fake://")
    notifier = oslo_messaging.Notifier(transport, "nova-compute:host-1")
    notifier.info({}, "compute.instance.update", path)
    break
"""


@dataclass(frozen=True)
class Outcome:
    """The doctor's rows for a case, and whether the notification arrived."""

    files: Path
    directory: Path
    rows: list[Row]
    arrived: bool

    def filled(self, text: str) -> str:
        """Return `text` with {files} and {directory} replaced."""
        return fill_in(text, self.files, self.directory)

    @property
    def result(self) -> str:
        """The worst result of all rows."""
        return max((row["result"] for row in self.rows), key=["ok", "warning", "failed"].index)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    """Run all cases at once, because both programs take long to start."""
    places = {name: tmp_path_factory.mktemp("service") for name in CASES}
    with (
        tempfile.TemporaryDirectory(prefix="relay-") as path,
        PrivateSocket(Path(path, "ingest.sock"), backlog=2 * len(CASES)) as private,
    ):
        directory = Path(path)
        for name, files in places.items():
            write_case(CASES[name], files, directory)
        confs = [os.fspath(files / "service.conf") for files in places.values()]
        rows = examine_services(directory, *([conf] for conf in confs))
        subprocess.run(
            [sys.executable, "-c", SERVICE, *confs],
            stdout=sys.stderr,
            timeout=4 * TIMEOUT,
            check=True,
            env=quiet_environment(),
        )
        stream = read_ended_producers(private)
        yield {
            name: Outcome(
                files,
                directory,
                [row for row in rows if f" {files}/" in row["check"]],
                f'"payload": "{files}/service.conf"'.encode() in stream,
            )
            for name, files in places.items()
        }


def fill_in(text: str, files: Path, directory: Path) -> str:
    return text.replace("{files}", os.fspath(files)).replace("{directory}", os.fspath(directory))


def write_case(case: Case, files: Path, directory: Path) -> None:
    text = SAMPLE.read_text().replace("/run/notif-relayd", "{directory}")
    for old, new in case.edits.items():
        assert old in text
        text = text.replace(old, new)
    for file, content in {"logging.conf": text, "service.conf": case.conf, **case.others}.items():
        if content is not None:
            (files / file).parent.mkdir(exist_ok=True)
            (files / file).write_text(fill_in(content, files, directory))


def examine_services(directory: Path, *services: list[str]) -> list[Row]:
    """Return the doctor's rows for services; each is a list of files."""
    options = [word for files in services for word in ("--service-config", *files)]
    done = relayctl(directory, "doctor", "--no-round-trip", "-f", "json", *options)
    assert done.stderr == ""
    rows = json.loads(done.stdout)
    assert done.returncode == any(row["result"] == "failed" for row in rows)
    return [row for row in rows if row["check"].startswith("service ")]


def read_ended_producers(private: PrivateSocket) -> bytes:
    """Return the bytes of all producers that have ended."""
    private.socket.setblocking(False)
    stream = b""
    with contextlib.suppress(BlockingIOError):
        while True:
            with private.accept() as incoming:
                stream += incoming.read_to_end()
    return stream


@pytest.mark.parametrize("name", CASES)
def test_verdict_matches_the_outcome(outcomes: dict[str, Outcome], name: str) -> None:
    case, outcome = CASES[name], outcomes[name]
    assert outcome.result == case.result, outcome.rows
    assert outcome.arrived == (case.result != "failed"), outcome.rows
    texts = [f"{row['finding']} {row['advice']}" for row in outcome.rows]
    assert any(outcome.filled(case.text) in text for text in texts), texts
    for row in outcome.rows:
        assert bool(row["advice"]) == (row["result"] != "ok"), row


def test_files_and_directories_of_a_service_are_merged(directory: Path) -> None:
    (directory / "more").mkdir()
    files = {
        "nova.conf": "[DEFAULT]\n[oslo_messaging_notifications]\ndriver = noop\n",
        "nova-compute.conf": "[oslo_messaging_notifications]\ndriver = unix\n",
        "more/path.conf": f"[oslo_messaging_notifications]\n{SOCK_PATH}\n",
    }
    paths = [directory / name for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_text(fill_in(content, directory, directory))
    service = [os.fspath(directory / name) for name in ("nova.conf", "nova-compute.conf", "more")]
    alone, together = service[:1], service
    rows = examine_services(directory, alone, together)
    assert [(row["check"], row["result"]) for row in rows] == [
        (f"service {service[0]} driver", "failed"),
        (f"service {' '.join(service)} driver", "ok"),
        (f"service {' '.join(service)} unix", "ok"),
    ]


def test_deprecated_option_names_are_a_warning(
    directory: Path,
) -> None:
    path = directory / "service.conf"
    path.write_text("[DEFAULT]\nnotification_driver = log\n")
    warned, *others = examine_services(directory, [os.fspath(path)])
    assert warned["result"] == "warning"
    assert "notification_driver, which new versions" in warned["finding"]
    assert [row["result"] for row in others] == ["ok", "failed"]


@pytest.mark.parametrize("url", ["unix://{}/notifications.sock", "unix://{}/%6eotifications.sock"])
def test_transport_of_the_library_reaches_the_relay(directory: Path, url: str) -> None:
    path = directory / "service.conf"
    url = url.format(directory)
    path.write_text(
        f"[oslo_messaging_notifications]\ndriver = messagingv2\ntransport_url = {url}\n"
    )
    rows = examine_services(directory, [os.fspath(path)])
    assert [row["result"] for row in rows] == ["ok", "ok"]
    assert "the driver messagingv2 sends to" in rows[1]["finding"]


def test_transport_to_a_broker_is_a_failure(directory: Path) -> None:
    path = directory / "service.conf"
    path.write_text(
        "[DEFAULT]\ntransport_url = rabbit://nova:secret@host:5672/\n"
        "[oslo_messaging_notifications]\ndriver = messagingv2\n"
    )
    (row,) = examine_services(directory, [os.fspath(path)])
    assert row["result"] == "failed"
    assert "secret" not in str(row)


def test_relative_logging_file_is_a_warning(directory: Path) -> None:
    path = directory / "service.conf"
    path.write_text(fill_in("[DEFAULT]\nlog_config_append = logging.conf\n" + DRIVER, path, path))
    rows = examine_services(directory, [os.fspath(path)])
    assert [row["result"] for row in rows] == ["ok", "warning"]
    assert "depends on the service's working directory" in rows[1]["finding"]


def test_logging_file_is_not_executed(directory: Path) -> None:
    write_case(Case("ok"), directory, directory)
    path = directory / "logging.conf"
    made = directory / "made"
    malicious = f'__import__("pathlib").Path("{made}").touch()'
    text = path.read_text()
    for line in ("class = StreamHandler", fill_in(ARGS, directory, directory)):
        assert line in text
        text = text.replace(line, f"{line.split()[0]} = ({malicious},)")
    path.write_text(text)
    examine_services(directory, [os.fspath(directory / "service.conf")])
    assert not made.exists()


@needs_root
@pytest.mark.parametrize("closed", ["service.conf", "logging.conf"])
def test_unreadable_files_are_skipped(directory: Path, closed: str) -> None:
    write_case(Case("ok"), directory, directory)
    directory.chmod(0o755)
    (directory / closed).chmod(0o600)
    done = relayctl_as_nobody(
        directory,
        *("doctor", "--no-round-trip", "-f", "json"),
        *("--service-config", os.fspath(directory / "service.conf")),
    )
    *_, row, library = json.loads(done.stdout)
    assert row["result"] == library["result"] == "skipped"
    assert "you may not read" in row["finding"]
    assert "root" in row["advice"]
