# SPDX-License-Identifier: Apache-2.0
"""Run the tutorial and README.md line by line on a host without the relay."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import doc_blocks
from support.container import (
    CONTROL,
    DEADLINE,
    PUBLIC,
    PUBLIC_UNIT,
    connect,
    create_users,
    relays,
    run,
    show,
    states,
    systemctl,
)
from support.doc_blocks import Block
from support.environments import CHECKOUT, SITE_PACKAGES, make_environment

DOCUMENTED_PLACE, PLACE = "/opt/notif-relayd", "/opt/relay"
"""Path in the documentation, which the container uses for the checkout, and its replacement."""

NOT_RUN = {
    "openstack server create --flavor m1.nano --image cirros-0.6.3-x86_64-disk --network private "
    "first": "needs a cloud; the replacement of nova-compute notifies without it",
}

INSTALLING = {f"python3 -m venv {PLACE}", f"{PLACE}/bin/pip install '.[daemon]'"}
"""Commands that only the first test on a host runs, because they take half of its time."""

NEED_A_NETWORK = ("apt-get install ", "make deb")
"""Beginnings of commands that tests/unit/test_docs_packages.py and tests/packages check."""

ENDLESS = ("nc ", "echo ", "relayctl tail")
"""Beginnings of commands that read until they are interrupted."""

NOVA_COMPUTE = """
import signal, sys
import oslo_messaging
from oslo_config import cfg
conf = cfg.ConfigOpts()
conf(sys.argv[1:], project="nova")
transport = oslo_messaging.get_notification_transport(conf, url="fake://")
notifier = oslo_messaging.Notifier(transport, "compute.host")
notifier.info({}, "compute.instance.create.start", {"instance_id": "first"})
signal.pause()
"""

UNIT = """
[Service]
User=stack
WorkingDirectory=/opt/stack
ExecStart=/opt/stack/data/venv/bin/python nova-compute --config-file /etc/nova/nova-cpu.conf
"""


class Terminal:
    """A shell that keeps its state from one block to the next."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._block = directory / ".block"
        self._shell = subprocess.Popen(
            ["bash", "-e"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
            env=environment(),
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._shell.kill()
        self._shell.communicate()

    def type(self, commands: str) -> str:
        """Run commands; return their output and check that each succeeds."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._block.write_text(commands)
        self._shell.stdin.write(". ./.block </dev/null\necho -end-\n")
        self._shell.stdin.flush()
        output = ""
        for line in self._shell.stdout:
            if line == "-end-\n":
                return output
            output += line
        raise AssertionError(f"{commands} failed: {output}")

    def beside(self, commands: str) -> Reader:
        """Start reading commands in another terminal."""
        return Reader(commands, self._directory)


class Reader:
    """Commands that read, in a pseudo-terminal, so that their output is not buffered."""

    def __init__(self, commands: str, directory: Path) -> None:

        self._screen, terminal = pty.openpty()
        self._process = subprocess.Popen(
            ["bash", "-ec", commands],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
            cwd=directory,
            env=environment() | {"PATH": f"{PLACE}/bin:{os.environ['PATH']}", "NO_COLOR": "yes"},
            start_new_session=True,
        )
        os.close(terminal)
        self._seen = ""

    def seen(self, seconds: float) -> str:
        """Wait up to `seconds` for more output; return all output so far."""
        if select.select([self._screen], [], [], seconds)[0]:
            with contextlib.suppress(OSError):  # the commands have ended
                self._seen += os.read(self._screen, 65536).decode()
        return self._seen.replace("\r\n", "\n")

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._screen)


def environment() -> dict[str, str]:
    """Return an environment in which pip uses the installed packages instead of an index."""
    return os.environ | {
        "PYTHONPATH": os.fspath(SITE_PACKAGES),
        "PIP_NO_INDEX": "yes",
        "PIP_NO_BUILD_ISOLATION": "no",  # for an option that begins with "no", this means yes
        "PIP_ROOT_USER_ACTION": "ignore",
    }


def bytes_delivered() -> int:
    """Return the relay's counter, or 0 without a relay; this does not start the relay."""
    with socket.socket(socket.AF_UNIX) as control, control.makefile("rwb") as stream:
        try:
            control.connect(CONTROL)
        except OSError:
            return 0
        stream.write(b'{"method": "status"}\n')
        stream.flush()
        return int(json.loads(stream.readline())["result"]["bytes_delivered"])


def adapted(block: Block) -> str:
    return block.text.replace(DOCUMENTED_PLACE, PLACE)


def append(block: Block) -> None:
    path = Path(block.where)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(block.text)


def is_shown(output: str, expected: str) -> bool:
    """Return whether the output matches the documented one; `…` matches any text."""
    pattern = re.sub(r"([*?[])", r"[\1]", expected.strip()).replace("…", "*")
    return fnmatch.fnmatchcase(output.strip(), pattern)


@pytest.fixture(scope="module")
def host(users: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prepare the parts of a DevStack that the documentation uses; return a checkout."""
    lines = [f"u {user} -" for user in ("stack", "nova", "alice")]
    assert run("systemd-sysusers", "--inline", *lines).returncode == 0
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    checkout = shutil.copytree(
        CHECKOUT, tmp_path_factory.mktemp("home") / "notif-relayd", ignore=ignored
    )
    make_environment(Path("/opt/stack/data/venv"))
    Path("/opt/stack/nova-compute").write_text(NOVA_COMPUTE)
    Path("/etc/systemd/system/devstack@.service").write_text(UNIT)
    # /etc is empty in the container, and Debian's nc is a link to /etc/alternatives.
    alternatives = Path("/etc/alternatives")
    alternatives.mkdir(exist_ok=True)
    if shutil.which("nc") is None:
        (alternatives / "nc").symlink_to("/usr/bin/nc.openbsd")
    before = os.environ["PYTHONPATH"]
    systemctl("set-environment", f"PYTHONPATH={SITE_PACKAGES}")
    yield checkout
    systemctl("stop", "devstack@n-cpu")
    systemctl("set-environment", f"PYTHONPATH={before}")
    shutil.rmtree("/etc/nova", ignore_errors=True)
    shutil.rmtree(PLACE, ignore_errors=True)
    shutil.rmtree("/opt/stack")
    assert run("make", "-C", os.fspath(CHECKOUT), "install").returncode == 0
    create_users()  # with the memberships, which end when a group is removed


def test_tutorial_works_from_first_to_last_line(host: Path) -> None:
    output, second = "", None
    with Terminal(host) as terminal:
        for block in doc_blocks.tutorial():
            match block.language, block.where:
                case "sh", "":
                    if not block.text.startswith((*NOT_RUN, *NEED_A_NETWORK)):
                        output = terminal.type(adapted(block))
                case "text", "":
                    assert is_shown(output, block.text), output
                case "sh", _:
                    before = bytes_delivered()
                    second = terminal.beside(adapted(block))
                    end = time.monotonic() + DEADLINE
                    while bytes_delivered() <= before:  # until the reader's request is answered
                        second_output = second.seen(0.05)
                        assert time.monotonic() < end, second_output
                case "text", _:
                    assert second is not None
                    end = time.monotonic() + DEADLINE
                    while not is_shown(second.seen(0.05), block.text):
                        assert time.monotonic() < end, second.seen(0)
                    second.close()
                case "ini", _:
                    append(block)
                case _:
                    pytest.fail(f"unexpected block: {block}")


def test_readme_works_from_first_to_last_line(host: Path) -> None:
    """Install first: README.md shows how to read before that."""
    installed = Path(PLACE).exists()
    blocks = [each for each in doc_blocks.readme() if each.section != doc_blocks.TRY]
    blocks.sort(key=lambda block: block.section != doc_blocks.INSTALLING)
    with Terminal(host) as terminal:
        for block in blocks:
            match block.language:
                case "ini":
                    append(block)
                case "python":
                    read = f"{PLACE}/bin/python -u -c {shlex.quote(block.text)}"
                    assert_shows_an_error(terminal, read)
                case "sh":
                    for line in Block("sh", adapted(block), "").lines:
                        if line.startswith(NEED_A_NETWORK) or (line in INSTALLING and installed):
                            continue
                        if line.startswith(ENDLESS):
                            assert_shows_an_error(terminal, line)
                        elif line.startswith("relayctl bridges"):
                            with running_bridge():
                                terminal.type(line)
                        elif line.startswith("relayctl"):
                            with connect(PUBLIC):  # starts the relay
                                terminal.type(line)
                        else:
                            terminal.type(line)
                case "":
                    pass  # a diagram
                case _:
                    pytest.fail(f"unexpected block: {block}")


@contextlib.contextmanager
def running_bridge() -> Iterator[None]:
    """Run a bridge, whose broker is not available."""
    path = Path("/etc/notif-relayd/bridge/region-1.conf")
    path.write_text("[bridge]\ntarget = nats://127.0.0.1:9\n")
    systemctl("start", "notif-relayd-bridge@region-1")
    yield
    systemctl("stop", "notif-relayd-bridge@region-1")


def assert_shows_an_error(terminal: Terminal, commands: str) -> None:
    """Check that the reading commands show an error notification of nova."""
    event_type = "compute.instance.broken"
    sent = f"{PLACE}/bin/relayctl send --event-type {event_type} --priority ERROR"
    with contextlib.closing(terminal.beside(commands)) as reader:
        end = time.monotonic() + DEADLINE
        # The first notification may precede the subscription, so send until one is shown.
        while event_type not in reader.seen(0.2):
            assert time.monotonic() < end, f"{commands} shows {reader.seen(0)!r}"
            terminal.type(sent)


def test_upgrade_and_removal_with_pip_work(host: Path) -> None:
    with Terminal(host) as terminal:
        if not Path(PLACE).exists():
            for command in sorted(INSTALLING, reverse=True):  # venv, then pip
                terminal.type(command)
        terminal.type(f"make install BINDIR={PLACE}/bin; systemctl start {PUBLIC_UNIT}")
        upgrade, remove = map(adapted, doc_blocks.upgrading("pip and make install"))
        with connect(PUBLIC):
            before = show("MainPID")
            terminal.type(f"export CC=/bin/false CXX=/bin/false\n{upgrade}")  # compiled before
            assert show("MainPID") not in (before, "0")
        assert relays()
        terminal.type(remove)
        assert states() == ("inactive", "inactive", "inactive")
        assert not Path(PLACE).exists()
        assert "notif-relayd" not in run("systemctl", "list-unit-files").stdout
        (users,) = doc_blocks.upgrading("Users and groups")
        # In the container, userdel keeps the groups of the users.
        terminal.type(f"{users.text}\ngroupdel notif-relayd\ngroupdel notif-relayd-bridge")
        assert "notif" not in Path("/etc/passwd").read_text() + Path("/etc/group").read_text()
