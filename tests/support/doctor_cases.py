# SPDX-License-Identifier: Apache-2.0
"""Configurations of services, and the verdicts that relayctl doctor should give on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SAMPLE = Path(__file__).parents[2] / "etc" / "notif-relayd" / "logging.conf"


DRIVER = "[oslo_messaging_notifications]\ndriver = log\n"


APPEND = "[DEFAULT]\nlog_config_append = {files}/logging.conf\n"


SOCK_PATH = "sock_path = {directory}/notifications.sock"


WHOLE = APPEND + DRIVER


LOGGER = "qualname = oslo.messaging.notification\nlevel = DEBUG\nhandlers = relay\npropagate = 0\n"


ARGS = 'args = ("{directory}/ingest.sock",)'


ROOT = "level = INFO\nhandlers = stderr"


@dataclass(frozen=True)
class Case:
    """A service's configuration and the expected verdict."""

    result: str
    """The worst result of all checks."""
    text: str = ""
    """Part of a finding or an advice; {files} and {directory} are replaced."""
    conf: str | None = WHOLE
    edits: dict[str, str] = field(default_factory=dict)
    """Replacements in the sample logging file."""
    others: dict[str, str] = field(default_factory=dict)
    """Contents of further files, by name."""


def logger_edit(**changed: str) -> dict[str, str]:
    """Return an edit of the notification logger's section; an empty value removes the key."""
    lines = dict(line.split(" = ") for line in LOGGER.splitlines()) | changed
    return {LOGGER: "".join(f"{key} = {value}\n" for key, value in lines.items() if value)}


def driver_conf(*lines: str) -> str:
    """Return a configuration with these lines in [oslo_messaging_notifications]."""
    return "\n".join([APPEND, "[oslo_messaging_notifications]", *lines, ""])


CASES = {
    # Configurations that work.
    "the sample": Case("ok", "ingest.sock, the relay's private socket"),
    "a second driver": Case("ok", conf=driver_conf("driver = messagingv2", "driver = log")),
    "the handler's module path": Case(
        "ok", edits={"notif_relay.RelayHandler": "notif_relay.handler.RelayHandler"}
    ),
    "the path as a keyword argument": Case(
        "ok", edits={ARGS: 'kwargs = {"path": "{directory}/ingest.sock"}'}
    ),
    "all arguments": Case("ok", edits={ARGS: 'args = ("{directory}/ingest.sock", 0.1, 65536)'}),
    "a path that is not normalized": Case(
        "ok", edits={ARGS: 'args = ("{directory}/./ingest.sock",)'}
    ),
    "a parent logger": Case("ok", edits=logger_edit(qualname="oslo.messaging")),
    "the old name of log_config_append": Case(
        "ok", conf="[DEFAULT]\nlog_config = {files}/logging.conf\n" + DRIVER
    ),
    "the driver in a configuration directory": Case(
        "ok", conf=APPEND, others={"service.conf.d/notifications.conf": DRIVER}
    ),
    "no level": Case("ok", edits={**logger_edit(level=""), ROOT: "handlers = stderr"}),
    "the library's driver": Case(
        "ok", "the driver unix sends to", conf=driver_conf("driver = unix", SOCK_PATH)
    ),
    "the library's driver with ingest_path": Case(
        "ok",
        conf=driver_conf(
            "driver = unix", "sock_path = /nowhere/public", "ingest_path = {directory}/ingest.sock"
        ),
    ),
    "the service's own log beside the library's driver": Case(
        "ok",
        "writes to the service's own log",
        conf="\n".join([DRIVER, "driver = unix", SOCK_PATH]),
    ),
    "a logging file without the handler beside the library's driver": Case(
        "ok",
        "writes to the service's own log",
        conf=driver_conf("driver = log", "driver = unix", SOCK_PATH),
        edits=logger_edit(handlers="stderr"),
    ),
    "several drivers": Case(
        "ok",
        conf="\n".join(
            [DRIVER, *(f"driver = {each}" for each in ("unix", "messagingv2", "noop")), SOCK_PATH]
        ),
    ),
    # Configurations that work, but perhaps not as intended.
    "no debug on the logger": Case("warning", "DEBUG are lost", edits=logger_edit(level="INFO")),
    "no debug on the handler": Case(
        "warning", "level = DEBUG in [handler_relay]", edits={ARGS: f"{ARGS}\nlevel = INFO"}
    ),
    "the root's level": Case(
        "warning", "the level of [logger_root]", edits=logger_edit(level="NOTSET")
    ),
    "propagate to the log": Case(
        "warning", "set propagate = 0 in [logger_notifications]", edits=logger_edit(propagate="1")
    ),
    "propagate not set": Case(
        "warning", "stderr of [logger_root]", edits=logger_edit(propagate="")
    ),
    "the handler on the root logger": Case(
        "warning",
        "which rejects everything that is not a notification",
        edits={
            "keys = root, notifications": "keys = root",
            ROOT: "level = DEBUG\nhandlers = relay",
        },
    ),
    "the handler on two loggers": Case(
        "warning",
        "reach the relay 2 times",
        edits={**logger_edit(propagate="1"), ROOT: "level = INFO\nhandlers = relay"},
    ),
    "a computed path": Case(
        "warning",
        "computes its arguments",
        edits={ARGS: 'args = (os.path.join("{directory}", "ingest.sock"),)'},
    ),
    "the log driver's handler to nowhere beside the library's driver": Case(
        "warning",
        "remove the handler relay",
        conf=driver_conf("driver = log", "driver = unix", SOCK_PATH),
        edits={ARGS: 'args = ("{files}/none.sock",)'},
    ),
    "an unknown driver beside the library's driver": Case(
        "warning",
        "a driver 'unix,log' does not exist",
        conf=driver_conf("driver = unix", "driver = unix,log", SOCK_PATH),
    ),
    "the driver for tests": Case(
        "warning",
        "in the memory of the service",
        conf=driver_conf("driver = unix", "driver = test", SOCK_PATH),
    ),
    "two drivers, of which only the handler's has a path": Case(
        "warning",
        "remove the line driver = unix",
        conf=driver_conf("driver = log", "driver = unix"),
    ),
    "routing and the library's driver": Case(
        "warning",
        "keep one of unix, routing",
        conf=driver_conf(
            *("driver = routing", "driver = unix", "routing_config = {files}/routing.yaml"),
            SOCK_PATH,
        ),
        others={"routing.yaml": "all:\n  unix: {accepted_events: ['*']}\n"},
    ),
    "routing to the library's driver": Case(
        "warning",
        "some notifications go to the driver unix",
        conf=driver_conf("driver = routing", "routing_config = {files}/routing.yaml", SOCK_PATH),
        others={"routing.yaml": "all:\n  unix: {accepted_events: ['*']}\n"},
    ),
    "the log driver and the library's driver": Case(
        "warning",
        "keep one of unix, log, or remove the relay's handler",
        conf=driver_conf("driver = log", "driver = unix", SOCK_PATH),
    ),
    # Configurations that do not work.
    "no option": Case("failed", "no driver is set", conf="[DEFAULT]\n"),
    "a missing configuration file": Case("failed", "service.conf", conf=None),
    "an invalid configuration file": Case("failed", "cannot be used", conf="[DEFAULT\n"),
    "another driver": Case(
        "failed", "add a line driver = unix", conf=driver_conf("driver = messagingv2")
    ),
    "noop": Case("failed", "driver is noop", conf=driver_conf("driver = noop")),
    "two drivers on one line": Case(
        "failed",
        "write a line driver = NAME for each",
        conf=driver_conf("driver = messagingv2, log"),
    ),
    "an unknown driver": Case(
        "failed", "a driver 'logs' does not exist", conf=driver_conf("driver = logs")
    ),
    "a driver in the wrong section": Case(
        "failed", "no driver is set", conf=APPEND + "driver = log\n"
    ),
    "routing without the library's driver": Case(
        "failed",
        "does not name the driver unix",
        conf=driver_conf("driver = routing", "routing_config = {files}/routing.yaml"),
        others={"routing.yaml": "all:\n  log: {accepted_events: ['*']}\n"},
    ),
    "the library's driver without a path": Case(
        "failed", "requires sock_path", conf=driver_conf("driver = unix")
    ),
    "the library's driver with a directory": Case(
        "failed", "it is a directory", conf=driver_conf("driver = unix", "sock_path = {directory}/")
    ),
    "a relative path beside ingest_path": Case(
        "failed",
        "depends on the service's working directory",
        conf=driver_conf(
            *("driver = unix", "sock_path = x.sock", "ingest_path = {directory}/ingest.sock")
        ),
    ),
    "the public socket as ingest_path": Case(
        "failed",
        "the relay's public socket, which is for subscribers",
        conf=driver_conf(
            "driver = unix", SOCK_PATH, "ingest_path = {directory}/notifications.sock"
        ),
    ),
    "an invalid argument beside the library's driver": Case(
        "failed",
        "max_wait",
        conf=driver_conf("driver = log", "driver = unix", SOCK_PATH),
        edits={ARGS: 'args = ("{directory}/ingest.sock", -1)'},
    ),
    "arguments that are no Python": Case(
        "failed", "was never closed", edits={ARGS: 'args = ("{directory}/ingest.sock",'}
    ),
    "neither driver reaches the relay": Case(
        "failed",
        "set sock_path",
        conf="\n".join([DRIVER, "driver = unix", "sock_path = {files}/notifications.sock"]),
    ),
    "the library's driver to another relay": Case(
        "failed",
        "sends to {files}/ingest.sock",
        conf=driver_conf("driver = unix", "sock_path = {files}/notifications.sock"),
    ),
    "the library's driver with a relative path": Case(
        "failed",
        "depends on the service's working directory",
        conf=driver_conf("driver = unix", "sock_path = notifications.sock"),
    ),
    "routing without a file": Case(
        "failed", "routing_config is not set", conf=driver_conf("driver = routing")
    ),
    "routing with an invalid file": Case(
        "failed",
        "cannot read {files}/routing.yaml",
        conf=driver_conf("driver = routing", "routing_config = {files}/routing.yaml"),
        others={"routing.yaml": "all: [\n"},
    ),
    "no log_config_append": Case("failed", "log_config_append is not set", conf=DRIVER),
    "a missing logging file": Case(
        "failed",
        "cannot load {files}/none.conf: No such file",
        conf="[DEFAULT]\nlog_config_append = {files}/none.conf\n" + DRIVER,
    ),
    "an unknown variable in a value": Case(
        "failed",
        "cannot be used",
        conf="[DEFAULT]\nlog_config_append = $nowhere/logging.conf\n" + DRIVER,
    ),
    "a directory as logging file": Case(
        "failed",
        "Is a directory",
        conf="[DEFAULT]\nlog_config_append = {files}\n" + DRIVER,
    ),
    "an invalid logging file": Case(
        "failed", "no section headers", edits={"[loggers]": "loggers:"}
    ),
    "a duplicate section": Case(
        "failed", "already exists", edits={"[logger_notifications]": "[logger_root]"}
    ),
    "no list of formatters": Case(
        "failed", "'formatters' is required", edits={"[formatters]": "[formats]"}
    ),
    "an unlisted formatter": Case(
        "failed",
        "has a formatter that [formatters] does not list",
        edits={"formatter = context": "formatter = other"},
    ),
    "an unlisted logger": Case(
        "failed", "has a handler of the class", edits={"keys = root, notifications": "keys = root"}
    ),
    "no root logger": Case(
        "failed", "list root", edits={"keys = root, notifications": "keys = notifications"}
    ),
    "an unlisted handler": Case(
        "failed", "'relay' is required", edits={"keys = stderr, relay": "keys = stderr"}
    ),
    "a missing section": Case(
        "failed", "'handler_relay' is required", edits={"[handler_relay]": "[handler-relay]"}
    ),
    "a logger without handlers": Case(
        "failed", "'handlers' is required", edits=logger_edit(handlers="")
    ),
    "a logger without a name": Case(
        "failed", "'qualname' is required", edits=logger_edit(qualname="")
    ),
    "the package's name as logger": Case(
        "failed",
        "set qualname = oslo.messaging.notification in [logger_notifications]",
        edits=logger_edit(qualname="oslo_messaging.notification"),
    ),
    "a logger for other events": Case(
        "failed",
        "which receives no notifications",
        edits=logger_edit(qualname="oslo.messaging.notify"),
    ),
    "a logger between": Case(
        "failed",
        "is on the logger oslo.messaging",
        edits={
            "keys = root, notifications": "keys = root, notifications, compute",
            LOGGER: LOGGER + "[logger_compute]\nqualname = oslo.messaging.notification.compute\n"
            "handlers = stderr\npropagate = 0\n",
        },
    ),
    "a high level on the logger": Case(
        "failed", "DEBUG and INFO are lost", edits=logger_edit(level="WARNING")
    ),
    "a high level on the handler": Case(
        "failed", "level = DEBUG in [handler_relay]", edits={ARGS: f"{ARGS}\nlevel = ERROR"}
    ),
    "a high level on the root alone": Case(
        "failed",
        "the level of [logger_root]",
        edits={**logger_edit(level=""), ROOT: "level = WARN\nhandlers = stderr"},
    ),
    "an invalid level": Case(
        "failed", "the level 'debug' does not exist", edits=logger_edit(level="debug")
    ),
    "an invalid propagate": Case("failed", "'no'", edits=logger_edit(propagate="no")),
    "another relay": Case(
        "failed",
        "the relay's private socket is {directory}/ingest.sock",
        edits={ARGS: 'args = ("{directory}/other.sock",)'},
    ),
    "the public socket": Case(
        "failed", "set args in", edits={ARGS: 'args = ("{directory}/notifications.sock",)'}
    ),
    "the default socket": Case(
        "failed", "sends to /run/notif-relayd/ingest.sock", edits={ARGS: "args = ()"}
    ),
    "arguments without a comma": Case(
        "failed", "comma", edits={ARGS: 'args = ("{directory}/ingest.sock")'}
    ),
    "too many arguments": Case(
        "failed", "too many", edits={ARGS: 'args = ("{directory}/ingest.sock", 1, 65536, 4)'}
    ),
    "an invalid argument": Case(
        "failed", "max_wait", edits={ARGS: 'args = ("{directory}/ingest.sock", -1)'}
    ),
    "a percent sign": Case("failed", "%", edits={ARGS: 'args = ("{directory}/%socket",)'}),
    "another class": Case(
        "failed", "of the class", edits={"notif_relay.RelayHandler": "NullHandler"}
    ),
    "an unknown class": Case(
        "failed",
        "the class notif_relay.Handler does not exist",
        edits={"notif_relay.RelayHandler": "notif_relay.Handler"},
    ),
}
