# SPDX-License-Identifier: Apache-2.0
"""Follow README.md and how-to guides literally on a bare Debian, with packages or with pip."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from support import doc_blocks
from support.bare_debian import DEADLINE, SUITE, follow
from support.doc_blocks import ROOT, Block

pytestmark = pytest.mark.phase_deadline(DEADLINE + 60)

README = doc_blocks.readme()

ENDLESS = ("nc ", "echo ", "relayctl tail")
"""Beginnings of commands that read until they are interrupted."""

NAMED = ("git", "make", "python3-venv", "netcat-openbsd", "jq")
"""Packages that README.md names outside of its blocks."""

BRIDGE = "[bridge]\ntarget = rabbit://127.0.0.1:9/\n"
"""Configuration of a bridge, whose broker is not available."""


def section(name: str, blocks: list[Block] = README) -> list[Block]:
    found = [block for block in blocks if block.section == name]
    assert found
    return found


def named_packages() -> str:
    """Return the command that installs the packages that README.md names in its text."""
    text = (ROOT / "README.md").read_text()
    assert "`apt-get install -y git make`" in text
    assert [name for name in NAMED if not re.search(rf"\b{name}\b", text)] == []
    return f"apt-get install -y {' '.join(NAMED)}\n"


def write(block: Block) -> str:
    """Return the command that appends a block to its file."""
    directory = block.where.rpartition("/")[0]
    return f"mkdir -p {directory}; printf %s {shlex.quote(block.text)} >>{block.where}\n"


def attempt() -> str:
    """Return the commands of *Try it*, as a user without privileges."""
    install, send, _, remove = section(doc_blocks.TRY)
    *commands, tail = install.lines
    lines = [
        "set -eux; cp -r /root/notif-relayd ~; cd ~/notif-relayd",
        *commands,
        f"{tail} >shown & reader=$!",
        # The first notification may precede the subscription.
        f"for n in $(seq 50); do {send.text.strip()}; ! grep test.hello shown || break; done",
        "grep 'WARN .* test.hello' shown",
        "kill $reader",
        *remove.lines,
    ]
    return f"chmod a+rx /root; su carol -c {shlex.quote(chr(10).join(lines))}\n"


def reading(python: str) -> str:
    """Return the commands that read from the relay and query it."""
    script = ""
    for block in section("Reading notifications"):
        if block.language == "python":
            script += f"shows {shlex.quote(f'{python} -u -c {shlex.quote(block.text)}')}\n"
        else:
            script += "".join(f"shows {shlex.quote(line)}\n" for line in block.lines)
    for line in section("Operating the relay")[0].lines:
        script += f"shows {shlex.quote(line)}\n" if line.startswith(ENDLESS) else f"{line}\n"
    return script


def connecting(library: str) -> str:
    """Return the commands that connect a service, for which `library` installs the library."""
    install, configure, check = section("Connecting a service")
    command, allow = install.lines
    assert command == "/opt/stack/data/venv/bin/pip install ."
    return "\n".join((library or command, allow, write(configure), check.text))


def bridge(program: str, install: str) -> tuple[str, str]:
    """Return the commands that set up a bridge, and those that remove it."""
    package, create, check, send, restart, remove, *_ = section(
        "Set up a bridge", doc_blocks.rst("howto/bridge.rst")
    )
    path = create.text.split()[-1]
    checked = check.text.replace(" notif-relayd-bridge --config", f" {program} --config")
    steps = [
        install or package.text,
        create.text,
        f"printf %s {shlex.quote(BRIDGE)} >{path}",
        *(checked, send.text, restart.text),
    ]
    return "\n".join(steps), remove.text


@pytest.mark.skipif(SUITE == "bookworm", reason="there are no packages for Debian 12")
def test_packages_work_from_first_to_last_command(tmp_path: Path) -> None:
    install, _, access = section(doc_blocks.INSTALLING)
    upgrade, remove, purge = doc_blocks.upgrading("Debian packages")
    set_up, end = bridge("notif-relayd-bridge", "")
    steps = [
        named_packages(),
        install.text + access.text,
        connecting("true"),
        set_up,
        reading("python3"),
        end,
        # A higher version of the same sources.
        "sed -i '1s/)/+upgrade)/' debian/changelog",
        upgrade.text,
        "dpkg-query -W notif-relayd | grep upgrade",
        remove.text,
        "if systemctl is-active notif-relayd.socket; then exit 1; fi",
        purge.text,
    ]
    follow(tmp_path, "\n".join(steps))


def test_pip_works_from_first_to_last_command(tmp_path: Path) -> None:
    _, install, access = section(doc_blocks.INSTALLING)
    upgrade, remove = doc_blocks.upgrading("pip and make install")
    (users,) = doc_blocks.upgrading("Users and groups")
    tutorial = [block.text for block in doc_blocks.tutorial() if block.language == "sh"]
    client, *_ = section("RabbitMQ", doc_blocks.rst("howto/bridge.rst"))
    set_up, end = bridge("/opt/notif-relayd/bin/notif-relayd-bridge", client.text)
    steps = [
        named_packages(),
        attempt(),
        install.text + access.text,
        "python3 -m venv /opt/stack/data/venv",
        connecting(""),
        set_up,
        reading("/opt/notif-relayd/bin/python"),
        end,
        upgrade.text,
        remove.text,
        users.text,
        "if grep notif /etc/passwd; then exit 1; fi",
        # The tutorial, until the sockets are enabled, in a shell that has run nothing before.
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin; hash -r",
        *tutorial[:4],
        "systemctl is-active notif-relayd.socket",
    ]
    follow(tmp_path, "\n".join(steps))
