# SPDX-License-Identifier: Apache-2.0
"""Modes, owners and groups of the sockets, and existing files at their paths."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from notif_relayd.net.listeners import LOCK_FILE
from support.records import record
from support.relay import Relay, RunningRelay, run_daemon, running_relay
from support.waiting import TIMEOUT, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change owners")


def access(path: Path) -> tuple[int, str, str]:
    status = path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    return stat.S_IMODE(status.st_mode), owner.pw_name, group.gr_name


def test_default_mode_is_for_owner_and_group(relay: RunningRelay) -> None:
    for path in (relay.public, relay.ingest, relay.control):
        assert access(path)[0] == 0o660


@needs_root
def test_mode_owner_and_group_are_as_configured(directory: Path) -> None:
    config = directory / "relayd.conf"
    config.write_text(
        "[relayd]\n"
        "public_mode = 0666\npublic_user = daemon\npublic_group = users\n"
        "ingest_mode = 0600\ningest_user = nobody\n"
        "control_mode = 640\ncontrol_group = games\n"
    )
    with running_relay(directory, "--config-file", str(config)) as relay:
        assert access(relay.public) == (0o666, "daemon", "users")
        assert access(relay.ingest)[:2] == (0o600, "nobody")
        mode, _, group = access(relay.control)
        assert (mode, group) == (0o640, "games")


def test_socket_is_never_more_open_than_configured(directory: Path) -> None:
    """The system calls show that the umask limits the mode, and listen() follows the chown()."""
    trace = directory / "trace"
    group = grp.getgrgid(os.getgid()).gr_name
    relay = subprocess.Popen(
        [
            *("strace", "-D", "-o", trace, "-e", "trace=umask,bind,chmod,fchmod,chown,listen"),
            *(sys.executable, "-m", "notif_relayd", "--runtime-dir", directory),
            *("--relayd-public_mode", "0640", "--relayd-public_group", group),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until((directory / "control.sock").exists, "the last socket exists")
    finally:
        relay.terminate()
        relay.wait(TIMEOUT)
    wait_until(lambda: "+++" in trace.read_text(), "the trace is complete")
    calls = [line.partition("(") for line in trace.read_text().splitlines()]
    calls = calls[next(i for i, call in enumerate(calls) if "notifications.sock" in call[2]) - 1 :]
    names = [name for name, _, _ in calls[:5]]
    assert names == ["umask", "bind", "umask", "chown", "listen"]
    assert calls[0][2].startswith("0137)")
    assert not any("chmod" in name for name, _, _ in calls)


def test_other_sockets_are_beside_the_public_one(directory: Path) -> None:
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    public = elsewhere / "public"
    arguments = ("--oslo_messaging_notifications-sock_path", str(public))
    relay = RunningRelay(directory, *arguments)
    try:
        relay.wait_ready()
        assert sorted(each.name for each in elsewhere.iterdir()) == [
            *("control.sock", "ingest.sock", "public")
        ]
        assert relay.stop() == 0
        assert list(elsewhere.iterdir()) == []
    finally:
        relay.close()


def test_stale_socket_file_is_replaced(directory: Path) -> None:
    for name in ("notifications.sock", "ingest.sock", "control.sock"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.fspath(directory / name))
            dead.listen()
    with running_relay(directory) as relay:
        assert relay.status()["subscribers"] == 0


def test_sockets_left_by_a_killed_relay_are_replaced(directory: Path) -> None:
    with running_relay(directory) as relay:
        relay.process.kill()
        relay.process.wait()
    (directory / "notify.sock").unlink()
    with running_relay(directory) as relay, relay.subscribe() as subscriber:
        with relay.produce() as producer:
            producer.sendall(record())
        assert subscriber.line() == record()


def test_second_instance_exits_and_names_the_first(relay: RunningRelay) -> None:
    second = run_daemon("--runtime-dir", str(relay.directory))
    assert second.returncode == 1
    assert str(relay.public) in second.stderr
    assert f"pid {relay.process.pid} " in second.stderr
    assert len(second.stderr.splitlines()) == 1
    with relay.subscribe() as subscriber, relay.produce() as producer:
        producer.sendall(record())
        assert subscriber.line() == record()


def test_concurrent_instances_do_not_share_sockets(
    directory: Path,
) -> None:
    for name in ("notifications.sock", "ingest.sock", "control.sock"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.fspath(directory / name))
    command = [sys.executable, "-m", "notif_relayd", "--runtime-dir", os.fspath(directory)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        wait_until(lambda: any(each.poll() is not None for each in both), "one instance has exited")
        [loser] = [each for each in both if each.poll() is not None]
        [winner] = [each for each in both if each is not loser]
        assert loser.returncode == 1
        assert f"pid {winner.pid} " in loser.communicate()[1]
        assert winner.poll() is None
    finally:
        for each in both:
            each.terminate()
            each.communicate(timeout=TIMEOUT)


def test_file_in_place_of_a_socket_is_left_alone(directory: Path) -> None:
    (directory / "ingest.sock").write_text("precious")
    result = run_daemon("--runtime-dir", str(directory))
    assert result.returncode == 1
    assert "ingest.sock exists and is not a socket" in result.stderr
    assert (directory / "ingest.sock").read_text() == "precious"
    assert not (directory / "notifications.sock").exists()


@needs_root
def test_passed_sockets_are_used_and_not_removed(directory: Path) -> None:
    """systemd-socket-activate(1) passes descriptors like systemd."""
    names = {"public": directory / "held-public.sock", "ingest": directory / "held-ingest.sock"}
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ready.bind(os.fspath(directory / "notify.sock"))
    ready.settimeout(TIMEOUT)
    process = subprocess.Popen(
        [
            "systemd-socket-activate",
            *(f"--listen={path}" for path in names.values()),
            "--fdname=public:ingest",
            f"--setenv=NOTIFY_SOCKET={directory}/notify.sock",
            f"--setenv=PYTHONPATH={os.pathsep.join(sys.path)}",
            *(sys.executable, "-m", "notif_relayd", "--runtime-dir", directory),
            *("--relayd-public_mode", "0606", "--relayd-public_group", "games"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        relay = Relay(directory)
        relay.public, relay.ingest = names.values()
        with socket.socket(socket.AF_UNIX) as producer:
            # The path exists before the socket listens; this socket is the second one.
            wait_until(
                lambda: not producer.connect_ex(os.fspath(relay.ingest)), "the socket listens"
            )
            producer.sendall(record(number=1))
            assert b"READY=1" in ready.recv(4096)
            relay.wait_status(records_received=1)
            with relay.subscribe() as subscriber:
                producer.sendall(record(number=2))
                assert subscriber.line() == record(number=2)
        assert access(relay.public)[::2] == (0o606, "games")
        assert relay.status()["public_socket"] == str(relay.public)
    finally:
        process.terminate()
        process.wait(TIMEOUT)
        ready.close()
    assert all(path.exists() for path in names.values())
    assert not (directory / "control.sock").exists()


LOCK_HOLDER = """
import fcntl, os, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@needs_root
def test_directory_lock_of_another_user_is_harmless(directory: Path) -> None:
    directory.chmod(0o755)
    command = [sys.executable, "-c", LOCK_HOLDER, os.fspath(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with running_relay(directory) as relay:
            assert relay.stop() == 0
        holder.kill()


BIND_FOR_ROOT = """
import os, sys
from notif_relayd.net.listeners import bind
from notif_relayd.settings import Access, SocketPlan
os.setgroups([]), os.setgid(65534), os.setuid(65534)
bind(SocketPlan("public", sys.argv[1], Access()), (-1, 0))
"""


@needs_root
def test_socket_that_cannot_be_set_up_is_removed(directory: Path) -> None:
    os.chown(directory, 65534, 65534)
    path = directory / "notifications.sock"
    command = [sys.executable, "-c", BIND_FOR_ROOT, os.fspath(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert f"cannot set up the public socket {path}: Operation not permitted" in done.stderr
    assert list(directory.iterdir()) == []


def hostile_file(path: Path) -> None:
    path.touch()
    os.chown(path, 65534, 65534)


def link(path: Path) -> None:
    path.symlink_to(path.with_name("precious"))


def readable_file(path: Path) -> None:
    path.touch()
    path.chmod(0o644)


@needs_root
@pytest.mark.parametrize("make", [hostile_file, link, readable_file, Path.mkdir, os.mkfifo])
def test_lock_file_with_wrong_owner_or_mode_is_refused(
    directory: Path, make: Callable[[Path], None]
) -> None:
    path = directory / LOCK_FILE
    make(path)
    result = run_daemon("--runtime-dir", str(directory))
    assert result.returncode == 1
    assert f"{path} is not a file that only the daemon's user" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [each.name for each in directory.iterdir()] == [LOCK_FILE]


def test_lock_file_left_by_a_killed_relay_is_used(directory: Path) -> None:
    (directory / LOCK_FILE).touch(0o600)
    with running_relay(directory):
        assert not (directory / LOCK_FILE).exists()
