# SPDX-License-Identifier: Apache-2.0
"""``driver = unix`` as services come by it: through oslo.messaging, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from stevedore.dispatch import DispatchExtensionManager

from support.private_socket import PrivateSocket, ProducerConnection
from support.records import check_gaps
from support.relay import RunningRelay, quiet_environment
from support.scripts import Scripts
from support.waiting import TIMEOUT

PATCH = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
"""

IMPORT = """
import json, logging, multiprocessing, os, signal, sys, threading
from oslo_config import cfg
import oslo_messaging
from oslo_messaging import get_notification_transport, Notifier
"""

SET_UP = """
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s")
CONF = cfg.CONF
CONF([], project="nova", default_config_files=[sys.argv[1]])
transport = get_notification_transport(CONF)
notifier = Notifier(transport, "nova-compute:host-1")
"""

SERVICE = IMPORT + SET_UP


def configuration(directory: Path, *lines: str, drivers: tuple[str, ...] = ("unix",)) -> Path:
    """A service's configuration file that sends to the relay in `directory`."""
    path = directory / "service.conf"
    path.write_text(
        "\n".join(
            [
                "[oslo_messaging_notifications]",
                "transport_url = fake://",
                *(f"driver = {driver}" for driver in drivers),
                *lines,
            ]
        )
    )
    return path


@pytest.fixture
def config(directory: Path) -> Path:
    return configuration(directory, f"sock_path = {directory}/notifications.sock")


def run(scripts: Scripts, program: str, *arguments: object) -> Any:
    return scripts.run("-W", "ignore", "-c", program, *arguments)


def received(incoming: ProducerConnection) -> list[dict[str, Any]]:
    return [json.loads(line) for line in incoming.read_to_end().splitlines()]


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
        script = run(scripts, ALL_PRIORITIES, config)
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
    config = configuration(
        directory, f"sock_path = {directory}/notifications.sock", drivers=drivers
    )
    script = run(scripts, BESIDE_OTHERS, config, directory / "log")
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
    reason="with this stevedore the routing driver can make no driver at all",
)
def test_routing_driver_selects_notifications(
    scripts: Scripts, private: PrivateSocket, directory: Path
) -> None:
    routes = directory / "routes.yaml"
    routes.write_text(
        "local:\n  unix:\n    accepted_events: ['compute.*']\n    accepted_priorities: ['error']\n"
    )
    config = configuration(
        directory,
        f"sock_path = {directory}/notifications.sock",
        f"routing_config = {routes}",
        drivers=("routing",),
    )
    run(scripts, ROUTING, config)
    with private.accept() as incoming:
        (only,) = received(incoming)
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
    script = run(scripts, SHARED, config)
    with private.accept() as incoming:
        publishers = [each["publisher_id"] for each in received(incoming)]
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
    script = run(scripts, LAST_NOTIFIER, config)
    with private.accept() as incoming:
        assert len(received(incoming)) == 2
    assert script.line() == "gone"
    script.proceed()
    with private.accept() as incoming:
        assert [each["publisher_id"] for each in received(incoming)] == ["new"]
    script.finish()


INGEST = SERVICE + 'notifier.info({}, "e", {})\n'


def test_ingest_path_names_another_private_socket(scripts: Scripts, directory: Path) -> None:
    config = configuration(
        directory,
        "sock_path = /nowhere/notifications.sock",
        f"ingest_path = {directory}/elsewhere.sock",
    )
    with PrivateSocket(directory / "elsewhere.sock") as private:
        script = run(scripts, INGEST, config)
        with private.accept() as incoming:
            assert len(received(incoming)) == 1
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
    output = run(scripts, FAULTY, configuration(directory, *options)).finish().splitlines()
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
    script = run(scripts, UNREACHED, config)
    warning = script.line()
    assert warning.startswith("WARNING notif_relay.messaging.producer: Notifications are dropped")
    assert f"{config.parent}/ingest.sock" in warning
    assert warning.endswith("No such file or directory")
    assert script.line() == "still running"


def test_file_in_place_of_the_socket_is_a_warning(scripts: Scripts, config: Path) -> None:
    (config.parent / "ingest.sock").touch()
    assert run(scripts, UNREACHED, config).line().endswith("Not a socket")


AS_NOBODY = (
    SERVICE  # as root, since nobody might not read where Python and its modules are
    + """
del notifier
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
notifier = Notifier(transport, "nobody")
"""
    + UNREACHED[len(SERVICE) :]
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_denied_permission_is_a_warning(
    scripts: Scripts, private: PrivateSocket, directory: Path, config: Path
) -> None:
    directory.chmod(0o755)
    private.path.chmod(0o660)
    script = run(scripts, AS_NOBODY, config)
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
driver = notifier._driver_mgr.extensions[0].obj
print(driver._producer.dropped)
"""
)


def test_unsendable_notification_is_logged_and_skipped(
    scripts: Scripts, private: PrivateSocket, config: Path
) -> None:
    script = run(scripts, TOO_LARGE, config)
    with private.accept() as incoming:
        assert [each["event_type"] for each in received(incoming)] == ["fine"]
    too_large, problem, *_, dropped = script.finish().splitlines()
    assert too_large.startswith(
        "WARNING notif_relay.messaging.driver: too.large of nova-compute:host-1: a record of 1048"
    )
    assert too_large.endswith("bytes was dropped: max_record_size is 1048576 bytes")
    assert problem.startswith("ERROR oslo_messaging.notify.notifier: Problem 'keys must be str")
    assert dropped == "1"


AT_EXIT = (
    SERVICE
    + """
number = 0
driver = notifier._driver_mgr.extensions[0].obj
while driver._producer.dropped < 2:
    driver.notify({}, {"number": number, "x": "x" * 20_000}, "INFO", None)
    number += 1
print(number, flush=True)
sys.stdin.readline()
"""
)


def test_gap_record_is_sent_at_exit(scripts: Scripts, private: PrivateSocket, config: Path) -> None:
    script = run(scripts, AT_EXIT, config)
    number = int(script.line())
    with private.accept() as incoming:
        data = incoming.read_available()
        script.proceed()
        lines = (data + incoming.read_to_end()).splitlines(keepends=True)
    told, present, unknown = check_gaps(lines)
    assert (told, unknown) == (number, False)
    assert number - present in {1, 2}  # the first may have been half sent, and finished
    assert script.finish() == ""


THREADS = """
def notify(thread):
    for number in range(200):
        notifier.info({}, "e", {"thread": thread, "number": number, "x": "x" * 2000})

threads = [threading.Thread(target=notify, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(notifier._driver_mgr.extensions[0].obj._producer.dropped)
"""

ORDERS = {
    "real threads": SERVICE,
    "patched before all": PATCH + SERVICE,
    "patched after the import": IMPORT + PATCH + SET_UP,
    "patched after the notifier was made": SERVICE + PATCH,
}


@pytest.mark.parametrize("order", ORDERS)
def test_threads_of_any_kind_share_the_connection(
    scripts: Scripts, private: PrivateSocket, config: Path, order: str
) -> None:
    script = run(scripts, ORDERS[order] + THREADS, config)
    numbers: dict[int, list[int]] = {thread: [] for thread in range(8)}
    told = 0
    with private.accept() as incoming:
        for each in received(incoming):
            payload = each["payload"]
            if each["event_type"] == "notif_relayd.gap":  # where the machine has little time
                told += payload["dropped"]
            else:
                numbers[payload["thread"]].append(payload["number"])
    assert script.finish() == f"{told}\n"
    assert sum(map(len, numbers.values())) + told == 8 * 200
    assert all(received == sorted(set(received)) for received in numbers.values())


FORK = (
    SERVICE
    + """
busy = threading.Event()

def notify():
    while not busy.is_set():
        notifier.info({}, "parent", {})

thread = threading.Thread(target=notify, daemon=True)
thread.start()
for number in range(20):
    pid = os.fork()  # in the middle of a notification, as like as not
    if not pid:
        signal.alarm(10)  # ends a child that waits for its parent's thread
        notifier.info({}, "child", {"number": number})
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
busy.set()
thread.join()
notifier.info({}, "end", {})
"""
)


def test_forked_child_connects_while_a_thread_is_sending(
    scripts: Scripts, relay: RunningRelay, config: Path
) -> None:
    children, events = [], set()
    with relay.subscribe() as subscriber:
        script = run(scripts, FORK, config)
        while "end" not in events or len(children) < 20:
            notification = subscriber.notification()
            events.add(notification["event_type"])
            if notification["event_type"] == "child":
                children.append(notification["payload"]["number"])
        script.finish()
    assert sorted(children) == list(range(20))
    assert events == {"parent", "child", "end"}


WORKERS = (
    IMPORT
    + """
def work(number):
    notifier.info({}, "worker", {"number": number})
    return number
"""
    + SET_UP
    + """
if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[2]).Pool(1) as pool:
        assert pool.map(work, range(3)) == [0, 1, 2]
        pool.close()
        pool.join()
    notifier.info({}, "main", {})
"""
)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_workers_notify(
    scripts: Scripts, private: PrivateSocket, directory: Path, config: Path, method: str
) -> None:
    (directory / "main.py").write_text(WORKERS)
    script = scripts.run("-W", "ignore", directory / "main.py", config, method)
    streams = []
    for _ in range(2):
        with private.accept() as incoming:
            streams.append([each["event_type"] for each in received(incoming)])
    assert streams == [["worker"] * 3, ["main"]]
    script.finish()


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
