# SPDX-License-Identifier: Apache-2.0
"""What relayctl doctor says of a service's configuration is what happens with it.

Each configuration is given to the doctor, and to a process that loads it as every service does and
emits a notification. If the doctor says that something has failed, nothing may come, and else it
must.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.private_socket import PrivateSocket
from support.relay import quiet_environment
from support.relayctl import needs_root, relayctl, relayctl_as_nobody
from support.waiting import TIMEOUT

SAMPLE = Path(__file__).parents[2] / "etc" / "notif-relayd" / "logging.conf"

DRIVER = "[oslo_messaging_notifications]\ndriver = log\n"
APPEND = "[DEFAULT]\nlog_config_append = {files}/logging.conf\n"
SOCK_PATH = "sock_path = {directory}/notifications.sock"
WHOLE = APPEND + DRIVER

LOGGER = "qualname = oslo.messaging.notification\nlevel = DEBUG\nhandlers = relay\npropagate = 0\n"
ARGS = 'args = ("{directory}/ingest.sock",)'
ROOT = "level = INFO\nhandlers = stderr"

Row = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A service's configuration, and what is to be said of it."""

    result: str
    """The worst of all."""
    said: str = ""
    """A part of it."""
    conf: str | None = WHOLE
    edits: dict[str, str] = field(default_factory=dict)
    """What to replace in the sample of a logging file."""
    others: dict[str, str] = field(default_factory=dict)
    """More files, by name."""


def logger(**changed: str) -> dict[str, str]:
    """An edit of the notifications' logger; an empty value leaves the key out."""
    lines = dict(line.split(" = ") for line in LOGGER.splitlines()) | changed
    return {LOGGER: "".join(f"{key} = {value}\n" for key, value in lines.items() if value)}


def driver(*lines: str) -> str:
    return "\n".join([APPEND, "[oslo_messaging_notifications]", *lines, ""])


CASES = {
    # What works as it should.
    "the sample": Case("ok", "ingest.sock, the relay's private socket"),
    "another driver besides": Case("ok", conf=driver("driver = messagingv2", "driver = log")),
    "the handler by its module": Case(
        "ok", edits={"notif_relay.RelayHandler": "notif_relay.handler.RelayHandler"}
    ),
    "the path by its name": Case(
        "ok", edits={ARGS: 'kwargs = {"path": "{directory}/ingest.sock"}'}
    ),
    "all arguments": Case("ok", edits={ARGS: 'args = ("{directory}/ingest.sock", 0.1, 65536)'}),
    "a way round to the socket": Case("ok", edits={ARGS: 'args = ("{directory}/./ingest.sock",)'}),
    "a logger above": Case("ok", edits=logger(qualname="oslo.messaging")),
    "the old name of log_config_append": Case(
        "ok", conf="[DEFAULT]\nlog_config = {files}/logging.conf\n" + DRIVER
    ),
    "the driver in a directory beside": Case(
        "ok", conf=APPEND, others={"service.conf.d/notifications.conf": DRIVER}
    ),
    "no level at all": Case("ok", edits={**logger(level=""), ROOT: "handlers = stderr"}),
    "the driver of the library": Case(
        "ok", "the driver unix sends to", conf=driver("driver = unix", SOCK_PATH)
    ),
    "the driver of the library with a path of its own": Case(
        "ok",
        conf=driver(
            "driver = unix", "sock_path = /nowhere/public", "ingest_path = {directory}/ingest.sock"
        ),
    ),
    # What works, but perhaps not as it was meant.
    "no debug on the logger": Case("warning", "DEBUG are lost", edits=logger(level="INFO")),
    "no debug on the handler": Case(
        "warning", "level = DEBUG in [handler_relay]", edits={ARGS: f"{ARGS}\nlevel = INFO"}
    ),
    "the root's level": Case("warning", "the level of [logger_root]", edits=logger(level="NOTSET")),
    "into the log as well": Case(
        "warning", "set propagate = 0 in [logger_notifications]", edits=logger(propagate="1")
    ),
    "propagate not set": Case("warning", "stderr of [logger_root]", edits=logger(propagate="")),
    "on the root": Case(
        "warning",
        "which rejects what is no notification",
        edits={
            "keys = root, notifications": "keys = root",
            ROOT: "level = DEBUG\nhandlers = relay",
        },
    ),
    "twice": Case(
        "warning",
        "reach the relay 2 times",
        edits={**logger(propagate="1"), ROOT: "level = INFO\nhandlers = relay"},
    ),
    "a computed path": Case(
        "warning",
        "computes its arguments",
        edits={ARGS: 'args = (os.path.join("{directory}", "ingest.sock"),)'},
    ),
    "routed to the driver of the library": Case(
        "warning",
        "some notifications go to the driver unix",
        conf=driver("driver = routing", "routing_config = {files}/routing.yaml", SOCK_PATH),
        others={"routing.yaml": "all:\n  unix: {accepted_events: ['*']}\n"},
    ),
    "by the log and the driver of the library": Case(
        "warning",
        "keep one of log, unix",
        conf=driver("driver = log", "driver = unix", SOCK_PATH),
    ),
    # What does not work.
    "nothing set": Case("failed", "no driver is set", conf="[DEFAULT]\n"),
    "no configuration": Case("failed", "service.conf", conf=None),
    "no ini file": Case("failed", "cannot be used", conf="[DEFAULT\n"),
    "another driver": Case(
        "failed", "add a second line driver = log", conf=driver("driver = messagingv2")
    ),
    "noop": Case("failed", "driver is noop", conf=driver("driver = noop")),
    "two drivers in a line": Case(
        "failed", "write a line driver = NAME for each", conf=driver("driver = messagingv2, log")
    ),
    "no such driver": Case("failed", "there is no driver 'logs'", conf=driver("driver = logs")),
    "a driver in the wrong section": Case(
        "failed", "no driver is set", conf=APPEND + "driver = log\n"
    ),
    "routed to drivers that cannot be made": Case(
        "failed",
        "does not name the driver unix",
        conf=driver("driver = routing", "routing_config = {files}/routing.yaml"),
        others={"routing.yaml": "all:\n  log: {accepted_events: ['*']}\n"},
    ),
    "the driver of the library without a path": Case(
        "failed", "needs sock_path", conf=driver("driver = unix")
    ),
    "the driver of the library to another relay": Case(
        "failed",
        "sends to {files}/ingest.sock",
        conf=driver("driver = unix", "sock_path = {files}/notifications.sock"),
    ),
    "the driver of the library to nowhere in particular": Case(
        "failed",
        "depends on where the service is started",
        conf=driver("driver = unix", "sock_path = notifications.sock"),
    ),
    "routed by nothing": Case(
        "failed", "routing_config is not set", conf=driver("driver = routing")
    ),
    "routed by what is no YAML": Case(
        "failed",
        "routing.yaml cannot be used",
        conf=driver("driver = routing", "routing_config = {files}/routing.yaml"),
        others={"routing.yaml": "all: [\n"},
    ),
    "no logging file set": Case("failed", "log_config_append is not set", conf=DRIVER),
    "no logging file": Case(
        "failed",
        "cannot load {files}/none.conf: No such file",
        conf="[DEFAULT]\nlog_config_append = {files}/none.conf\n" + DRIVER,
    ),
    "an unknown name in a value": Case(
        "failed",
        "cannot be used",
        conf="[DEFAULT]\nlog_config_append = $nowhere/logging.conf\n" + DRIVER,
    ),
    "a directory for a logging file": Case(
        "failed",
        "Is a directory",
        conf="[DEFAULT]\nlog_config_append = {files}\n" + DRIVER,
    ),
    "a logging file of another form": Case(
        "failed", "no section headers", edits={"[loggers]": "loggers:"}
    ),
    "a section twice": Case(
        "failed", "already exists", edits={"[logger_notifications]": "[logger_root]"}
    ),
    "no formatters": Case("failed", "no 'formatters'", edits={"[formatters]": "[formats]"}),
    "a formatter that is not listed": Case(
        "failed",
        "has a formatter that [formatters] does not list",
        edits={"formatter = context": "formatter = other"},
    ),
    "a logger that is not listed": Case(
        "failed", "has a handler of the class", edits={"keys = root, notifications": "keys = root"}
    ),
    "no root": Case(
        "failed", "list root", edits={"keys = root, notifications": "keys = notifications"}
    ),
    "a handler that is not listed": Case(
        "failed", "no 'relay'", edits={"keys = stderr, relay": "keys = stderr"}
    ),
    "a section that is missing": Case(
        "failed", "no 'handler_relay'", edits={"[handler_relay]": "[handler-relay]"}
    ),
    "a logger without handlers": Case("failed", "no 'handlers'", edits=logger(handlers="")),
    "a logger without a name": Case("failed", "no 'qualname'", edits=logger(qualname="")),
    "the name of the package": Case(
        "failed",
        "set qualname = oslo.messaging.notification in [logger_notifications]",
        edits=logger(qualname="oslo_messaging.notification"),
    ),
    "a logger for other events": Case(
        "failed", "which no notification", edits=logger(qualname="oslo.messaging.notify")
    ),
    "a logger in the way": Case(
        "failed",
        "is on the logger oslo.messaging",
        edits={
            "keys = root, notifications": "keys = root, notifications, compute",
            LOGGER: LOGGER + "[logger_compute]\nqualname = oslo.messaging.notification.compute\n"
            "handlers = stderr\npropagate = 0\n",
        },
    ),
    "a high level on the logger": Case(
        "failed", "DEBUG and INFO are lost", edits=logger(level="WARNING")
    ),
    "a high level on the handler": Case(
        "failed", "level = DEBUG in [handler_relay]", edits={ARGS: f"{ARGS}\nlevel = ERROR"}
    ),
    "a high level on the root alone": Case(
        "failed",
        "the level of [logger_root]",
        edits={**logger(level=""), ROOT: "level = WARN\nhandlers = stderr"},
    ),
    "a level that is none": Case("failed", "no level 'debug'", edits=logger(level="debug")),
    "a propagate that is no number": Case("failed", "'no'", edits=logger(propagate="no")),
    "another relay": Case(
        "failed",
        "the relay's private socket is {directory}/ingest.sock",
        edits={ARGS: 'args = ("{directory}/other.sock",)'},
    ),
    "the public socket": Case(
        "failed", "set args in", edits={ARGS: 'args = ("{directory}/notifications.sock",)'}
    ),
    "the usual socket": Case(
        "failed", "sends to /run/notif-relayd/ingest.sock", edits={ARGS: "args = ()"}
    ),
    "no comma": Case("failed", "comma", edits={ARGS: 'args = ("{directory}/ingest.sock")'}),
    "an argument too many": Case(
        "failed", "too many", edits={ARGS: 'args = ("{directory}/ingest.sock", 1, 65536, 4)'}
    ),
    "an argument that can never work": Case(
        "failed", "max_wait", edits={ARGS: 'args = ("{directory}/ingest.sock", -1)'}
    ),
    "a percent sign": Case("failed", "%", edits={ARGS: 'args = ("{directory}/%socket",)'}),
    "another class": Case(
        "failed", "of the class", edits={"notif_relay.RelayHandler": "NullHandler"}
    ),
    "a class that is none": Case(
        "failed",
        "no class notif_relay.Handler",
        edits={"notif_relay.RelayHandler": "notif_relay.Handler"},
    ),
}

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
    beside = [path + ".d"] if os.path.isdir(path + ".d") else []
    log.register_options(cfg.CONF)
    cfg.CONF([], project="nova", default_config_files=[path], default_config_dirs=beside)
    log.setup(cfg.CONF, "nova")
    transport = oslo_messaging.get_notification_transport(cfg.CONF, url="fake://")
    notifier = oslo_messaging.Notifier(transport, "nova-compute:host-1")
    notifier.info({}, "compute.instance.update", path)
    break
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    files: Path
    directory: Path
    rows: list[Row]
    arrived: bool

    def filled(self, text: str) -> str:
        """With the names of the directories."""
        return filled(text, self.files, self.directory)

    @property
    def result(self) -> str:
        """The worst."""
        return max((row["result"] for row in self.rows), key=["ok", "warning", "failed"].index)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    """All cases at once: two programs that take long to start."""
    places = {name: tmp_path_factory.mktemp("service") for name in CASES}
    with (
        tempfile.TemporaryDirectory(prefix="relay-") as path,
        PrivateSocket(Path(path, "ingest.sock"), backlog=2 * len(CASES)) as private,
    ):
        directory = Path(path)
        for name, files in places.items():
            write(CASES[name], files, directory)
        confs = [os.fspath(files / "service.conf") for files in places.values()]
        rows = examined(directory, *([conf] for conf in confs))
        subprocess.run(
            [sys.executable, "-c", SERVICE, *confs],
            stdout=sys.stderr,
            timeout=4 * TIMEOUT,
            check=True,
            env=quiet_environment(),
        )
        came = received(private)
        yield {
            name: Outcome(
                files,
                directory,
                [row for row in rows if f" {files}/" in row["check"]],
                f'"payload": "{files}/service.conf"'.encode() in came,
            )
            for name, files in places.items()
        }


def filled(text: str, files: Path, directory: Path) -> str:
    return text.replace("{files}", os.fspath(files)).replace("{directory}", os.fspath(directory))


def write(case: Case, files: Path, directory: Path) -> None:
    text = SAMPLE.read_text().replace("/run/notif-relayd", "{directory}")
    for old, new in case.edits.items():
        assert old in text
        text = text.replace(old, new)
    for file, content in {"logging.conf": text, "service.conf": case.conf, **case.others}.items():
        if content is not None:
            (files / file).parent.mkdir(exist_ok=True)
            (files / file).write_text(filled(content, files, directory))


def examined(directory: Path, *services: list[str]) -> list[Row]:
    """What the doctor says of services, each of which has one or more files."""
    options = [word for files in services for word in ("--service-config", *files)]
    done = relayctl(directory, "doctor", "--no-round-trip", "-f", "json", *options)
    assert done.stderr == ""
    rows = json.loads(done.stdout)
    assert done.returncode == any(row["result"] == "failed" for row in rows)
    return [row for row in rows if row["check"].startswith("service ")]


def received(private: PrivateSocket) -> bytes:
    """All that came from producers that have ended."""
    private.socket.setblocking(False)
    came = b""
    with contextlib.suppress(BlockingIOError):
        while True:
            with private.accept() as incoming:
                came += incoming.read_to_end()
    return came


@pytest.mark.parametrize("name", CASES)
def test_verdict_matches_the_outcome(outcomes: dict[str, Outcome], name: str) -> None:
    case, outcome = CASES[name], outcomes[name]
    assert outcome.result == case.result, outcome.rows
    assert outcome.arrived == (case.result != "failed"), outcome.rows
    texts = [f"{row['finding']} {row['advice']}" for row in outcome.rows]
    assert any(outcome.filled(case.said) in text for text in texts), texts
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
        path.write_text(filled(content, directory, directory))
    given = [os.fspath(directory / name) for name in ("nova.conf", "nova-compute.conf", "more")]
    alone, together = given[:1], given
    rows = examined(directory, alone, together)
    assert [(row["check"], row["result"]) for row in rows] == [
        (f"service {given[0]} driver", "failed"),
        (f"service {' '.join(given)} driver", "ok"),
        (f"service {' '.join(given)} unix", "ok"),
    ]


def test_deprecated_option_names_are_a_warning(
    directory: Path,
) -> None:
    path = directory / "service.conf"
    path.write_text("[DEFAULT]\nnotification_driver = log\n")
    warned, *others = examined(directory, [os.fspath(path)])
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
    rows = examined(directory, [os.fspath(path)])
    assert [row["result"] for row in rows] == ["ok", "ok"]
    assert "the driver messagingv2 sends to" in rows[1]["finding"]


def test_transport_to_a_broker_is_a_failure(directory: Path) -> None:
    path = directory / "service.conf"
    path.write_text(
        "[DEFAULT]\ntransport_url = rabbit://nova:secret@host:5672/\n"
        "[oslo_messaging_notifications]\ndriver = messagingv2\n"
    )
    (row,) = examined(directory, [os.fspath(path)])
    assert row["result"] == "failed"
    assert "secret" not in str(row)


def test_relative_logging_file_is_a_warning(directory: Path) -> None:
    path = directory / "service.conf"
    path.write_text(filled("[DEFAULT]\nlog_config_append = logging.conf\n" + DRIVER, path, path))
    rows = examined(directory, [os.fspath(path)])
    assert [row["result"] for row in rows] == ["ok", "warning"]
    assert "depends on where the service is started" in rows[1]["finding"]


def test_logging_file_is_not_executed(directory: Path) -> None:
    write(Case("ok"), directory, directory)
    path = directory / "logging.conf"
    made = directory / "made"
    evil = f'__import__("pathlib").Path("{made}").touch()'
    text = path.read_text()
    for line in ("class = StreamHandler", filled(ARGS, directory, directory)):
        assert line in text
        text = text.replace(line, f"{line.split()[0]} = ({evil},)")
    path.write_text(text)
    examined(directory, [os.fspath(directory / "service.conf")])
    assert not made.exists()


@needs_root
@pytest.mark.parametrize("closed", ["service.conf", "logging.conf"])
def test_unreadable_files_are_skipped(directory: Path, closed: str) -> None:
    write(Case("ok"), directory, directory)
    directory.chmod(0o755)
    (directory / closed).chmod(0o600)
    done = relayctl_as_nobody(
        directory,
        *("doctor", "--no-round-trip", "-f", "json"),
        *("--service-config", os.fspath(directory / "service.conf")),
    )
    *_, row = json.loads(done.stdout)
    assert row["result"] == "skipped"
    assert "you may not read" in row["finding"]
    assert "root" in row["advice"]
