# SPDX-License-Identifier: Apache-2.0
"""The packages that the documentation names for installing with pip, and their source."""

from __future__ import annotations

import re

import pytest
import yaml

from support import doc_blocks
from support.doc_blocks import ROOT, Block


def packages(text: str, pattern: str) -> set[str]:
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return set(found.split())


# CI installs these, and nothing else, on a minimal Debian before it runs pip.
REQUIRED = packages((ROOT / "Makefile").read_text(), r"^DEB_PACKAGES \?= (.*) \\$")


TEXTS = {"", ".conf", ".md", ".py", ".rst", ".sample", ".service", ".sh", ".yml"}
"""Suffixes of files that may contain instructions."""


@pytest.mark.parametrize(
    "blocks", [doc_blocks.readme(), doc_blocks.tutorial()], ids=["README", "tutorial"]
)
def test_page_names_all_packages_that_pip_needs(blocks: list[Block]) -> None:
    commands = "".join(block.text for block in blocks)
    assert packages(commands, "^apt-get install -y ([^./]+)$") >= REQUIRED


def test_role_installs_all_packages_that_pip_needs() -> None:
    defaults = ROOT / "packaging/ansible/roles/notif_relayd/defaults/main.yml"
    template = yaml.safe_load(defaults.read_text())["notif_relayd_packages"]
    others = {"notif-relayd", "notif-relayd-bridge", "package"}
    assert set(re.findall(r"'([a-z0-9+-]+)'", template)) - others == REQUIRED


def test_nothing_names_the_project_to_an_index() -> None:
    """No index contains the project: pip needs a path, such as `.` or that of an archive."""
    folders = ("docs", "etc", "handler", "relayd", "packaging", "devstack", "systemd", "debian")
    files = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    texts = [path for path in (*ROOT.glob("*.md"), *files) if path.suffix in TEXTS]
    assert len(texts) > 200
    promised = re.compile(r"pip3? (?:install|download) (?:-\S+ )*['\"]?notif[-_]relay", re.I)
    assert [path for path in texts if promised.search(path.read_text())] == []
