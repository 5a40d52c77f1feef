# SPDX-License-Identifier: Apache-2.0
"""``driver = unix`` as services use it: through oslo.messaging, in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
from stevedore.dispatch import DispatchExtensionManager

from support.messaging_service import (
    SERVICE,
    read_notifications,
    run_service,
    write_configuration,
)
from support.private_socket import PrivateSocket
from support.relay import RunningRelay, quiet_environment
from support.scripts import Scripts
from support.waiting import TIMEOUT

ALL_PRIORITIES = (
    SERVICE
    + """
for priority in ("audit", "debug", "info", "warn", "warning", "error", "critical", "sample"):
    payload = {"uuid": priority, "admin_pass": "secret", "text": "gr\\u00fc\\u00df\\nGott"}
    getattr(notifier, priority)({}, "compute.instance.create.end", payload)
"""
)


def test_all_priorities_reach_a_subscriber(
    scripts: Scripts, relay: RunningRelay, config: Path
) -> None:
    with relay.subscribe() as subscriber:
        script = run_service(scripts, ALL_PRIORITIES, config)
        notifications = [subscriber.notification() for _ in range(8)]
        assert script.finish() == ""
    priorities = [each["priority"] for each in notifications]
    assert priorities == ["AUDIT", "DEBUG", "INFO", "WARN", "WARN", "ERROR", "CRITICAL", "SAMPLE"]
    first = notifications[0]
    assert first["event_type"] == "compute.instance.create.end"
    assert first["publisher_id"] == "nova-compute:host-1"
    assert first["payload"] == {"uuid": "audit", "admin_pass": "***", "text": "grüß\nGott"}
    assert first.keys() == {
        *("message_id", "publisher_id", "event_type", "priority", "payload", "timestamp")
    }


BESIDE_OTHERS = (
    SERVICE
    + """
from oslo_messaging.notify import _impl_test
logger = logging.getLogger("oslo.messaging.notification")
logger.setLevel("DEBUG")
logger.propagate = False
logger.addHandler(logging.FileHandler(sys.argv[2]))
notifier.info({}, "volume.create.start", {"password": "secret", "list": [1.5, None]})
notifier.prepare(publisher_id="other").error({}, "volume.create.error", {})
print(len(_impl_test.NOTIFICATIONS))
"""
)


def test_driver_sends_what_the_log_driver_logs(
    scripts: Scripts, private: PrivateSocket, directory: Path
) -> None:
    drivers = ("unix", "messagingv2", "log", "test")
    config = write_configuration(
        directory, f"sock_path = {directory}/notifications.sock", drivers=drivers
    )
    script = run_service(scripts, BESIDE_OTHERS, config, directory / "log")
    with private.accept() as incoming:
        assert incoming.read_to_end() == (directory / "log").read_bytes()
    assert script.finish() == "2\n"


ROUTING = (
    SERVICE
    + """
for priority in ("info", "error"):
    for event in ("compute.instance.update", "volume.create.end"):
        getattr(notifier, priority)({}, event, {})
"""
)


@pytest.mark.skipif(
    signature(DispatchExtensionManager).parameters["invoke_args"].default is not None,
    reason="the routing driver cannot create drivers with this version of stevedore",
)
def test_routing_driver_selects_notifications(
    scripts: Scripts, private: PrivateSocket, directory: Path
) -> None:
    routes = directory / "routes.yaml"
    routes.write_text(
        "local:\n  unix:\n    accepted_events: ['compute.*']\n    accepted_priorities: ['error']\n"
    )
    config = write_configuration(
        directory,
        f"sock_path = {directory}/notifications.sock",
        f"routing_config = {routes}",
        drivers=("routing",),
    )
    run_service(scripts, ROUTING, config)
    with private.accept() as incoming:
        (only,) = read_notifications(incoming)
    assert (only["event_type"], only["priority"]) == ("compute.instance.update", "ERROR")


SHARED = (
    SERVICE
    + """
others = [Notifier(transport, f"nova-api:{number}") for number in range(3)]
for each in (notifier, *others, notifier):
    each.info({}, "e", {})
"""
)


def test_notifiers_of_a_process_share_one_connection(
    scripts: Scripts, private: PrivateSocket, config: Path
) -> None:
    script = run_service(scripts, SHARED, config)
    with private.accept() as incoming:
        publishers = [each["publisher_id"] for each in read_notifications(incoming)]
    assert script.finish() == ""
    assert not private.has_pending()
    api = [f"nova-api:{number}" for number in range(3)]
    assert publishers == ["nova-compute:host-1", *api, "nova-compute:host-1"]


LAST_NOTIFIER = (
    SERVICE
    + """
other = Notifier(transport, "other")
notifier.info({}, "e", {})
del notifier
other.info({}, "e", {})
del other
print("gone", flush=True)
sys.stdin.readline()
notifier = Notifier(transport, "new")
notifier.info({}, "e", {})
"""
)


def test_connection_ends_with_the_last_notifier(
    scripts: Scripts, private: PrivateSocket, config: Path
) -> None:
    script = run_service(scripts, LAST_NOTIFIER, config)
    with private.accept() as incoming:
        assert len(read_notifications(incoming)) == 2
    assert script.line() == "gone"
    script.proceed()
    with private.accept() as incoming:
        assert [each["publisher_id"] for each in read_notifications(incoming)] == ["new"]
    script.finish()


INGEST = SERVICE + 'notifier.info({}, "e", {})\n'


def test_ingest_path_names_another_private_socket(scripts: Scripts, directory: Path) -> None:
    config = write_configuration(
        directory,
        "sock_path = /nowhere/notifications.sock",
        f"ingest_path = {directory}/elsewhere.sock",
    )
    with PrivateSocket(directory / "elsewhere.sock") as private:
        script = run_service(scripts, INGEST, config)
        with private.accept() as incoming:
            assert len(read_notifications(incoming)) == 1
    assert script.finish() == ""


FAULTY = SERVICE + 'notifier.info({}, "e", {})\nprint("still running")\n'


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "sock_path is not set"),
        (["sock_path ="], "sock_path is not set"),
        (["ingest_path = /run/ingest.sock"], "sock_path is not set"),
        (["sock_path = run/n.sock"], "sock_path must be an absolute path, not 'run/n.sock'"),
        (["sock_path = /run"], "sock_path must name a socket: /run is a directory"),
        ([f"sock_path = /{'x' * 107}"], "sock_path: path must be at most 107 bytes long"),
        ([f"sock_path = /{'x' * 100}/n"], "sock_path: path must be at most 107 bytes long"),
        (["sock_path = /run/n", "ingest_path = i"], "ingest_path must be an absolute path"),
        (["sock_path = /run/n", "ingest_path = /run"], "ingest_path must name a socket"),
        (["sock_path = /run/n", f"ingest_path = /{'x' * 107}"], "ingest_path: path must be"),
    ],
)
def test_invalid_options_are_one_error_in_a_running_service(
    scripts: Scripts, directory: Path, options: list[str], error: str
) -> None:
    output = (
        run_service(scripts, FAULTY, write_configuration(directory, *options)).finish().splitlines()
    )
    (line,) = (each for each in output if each.startswith("ERROR"))
    start = "ERROR stevedore.extension: Could not load 'unix': [oslo_messaging_notifications] "
    assert line.startswith(start + error)
    assert output[-1] == "still running"


UNREACHED = (
    SERVICE
    + """
Notifier(transport, "second")
for _ in range(1000):
    notifier.info({}, "e", {})
print("still running", flush=True)
sys.stdin.readline()
"""
)


def test_missing_relay_is_one_warning(scripts: Scripts, config: Path) -> None:
    script = run_service(scripts, UNREACHED, config)
    warning = script.line()
    assert warning.startswith("WARNING notif_relay.messaging.producer: Notifications are dropped")
    assert f"{config.parent}/ingest.sock" in warning
    assert warning.endswith("No such file or directory")
    assert script.line() == "still running"


def test_file_in_place_of_the_socket_is_a_warning(scripts: Scripts, config: Path) -> None:
    (config.parent / "ingest.sock").touch()
    assert run_service(scripts, UNREACHED, config).line().endswith("Not a socket")


AS_NOBODY = (
    SERVICE  # as root: the user nobody may not be permitted to read Python's modules
    + """
del notifier
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
notifier = Notifier(transport, "nobody")
"""
    + UNREACHED[len(SERVICE) :]
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_denied_permission_is_a_warning(
    scripts: Scripts, private: PrivateSocket, directory: Path, config: Path
) -> None:
    directory.chmod(0o755)
    private.path.chmod(0o660)
    script = run_service(scripts, AS_NOBODY, config)
    assert "Permission denied; the user of the service must be in the socket's group" in (
        script.line()
    )
    assert script.line() == "still running"
    assert not private.has_pending()


TOO_LARGE = (
    SERVICE
    + """
notifier.info({}, "too.large", {"password": "secret", "text": "x" * 1048576})
notifier.info({}, "cannot.be.written", {(1, 2): 3})
notifier.info({}, "fine", {})
print(producer().dropped)
"""
)


def test_unsendable_notification_is_logged_and_skipped(
    scripts: Scripts, private: PrivateSocket, config: Path
) -> None:
    script = run_service(scripts, TOO_LARGE, config)
    with private.accept() as incoming:
        assert [each["event_type"] for each in read_notifications(incoming)] == ["fine"]
    too_large, unwritable, dropped = script.finish().splitlines()
    assert too_large.startswith(
        "WARNING notif_relay.messaging.driver: too.large of nova-compute:host-1: a record of 1048"
    )
    assert too_large.endswith("max_record_size is 1048576 bytes (1 records dropped so far)")
    assert unwritable.startswith(
        "WARNING notif_relay.messaging.driver: cannot.be.written of nova-compute:host-1: a record"
    )
    assert "TypeError('keys must be str" in unwritable
    assert dropped == "2"


def test_driver_works_in_oslo_messaging_send_notification(
    relay: RunningRelay, config: Path
) -> None:
    with relay.subscribe() as subscriber:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("oslo-messaging-send-notification"),
                *("--config-file", config),
                *("--topic", "notifications"),
                *("--driver", "unix"),
                *("--publisher-id", "me"),
                *("--event-type", "test.set-up"),
                *("--priority", "sample"),
                "{'password': 'secret'}",
            ],
            env=quiet_environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "")
        notification = subscriber.notification()
    assert notification["event_type"] == "test.set-up"
    assert notification["publisher_id"] == "me"
    assert notification["priority"] == "sample"
    assert notification["payload"] == "{'password': '***'}"


def test_generated_sample_lists_the_options() -> None:
    done = subprocess.run(
        [
            Path(sys.executable).with_name("oslo-config-generator"),
            *("--namespace", "notif_relay"),
        ],
        env=quiet_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert "[oslo_messaging_notifications]" in done.stdout
    assert "#sock_path = /run/notif-relayd/notifications.sock" in done.stdout
    assert "#ingest_path = /run/notif-relayd/ingest.sock" in done.stdout
    assert "# Path of the public socket of notif-relayd." in done.stdout
    assert "notif-producers" in done.stdout
