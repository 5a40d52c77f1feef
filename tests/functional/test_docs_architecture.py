# SPDX-License-Identifier: Apache-2.0
"""Compare the developers' page with the packages, modules and methods that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "architecture.rst"
DAEMON = ROOT / "relayd" / "notif_relayd"
PACKAGES = (
    DAEMON,
    ROOT / "relayd" / "notif_relayctl",
    ROOT / "relayd" / "notif_relayd_bridge",
    ROOT / "handler" / "notif_relay",
)


def modules() -> set[str]:
    """Return the names of all modules and packages, those of the daemon relative to its package."""
    names = set()
    for package in PACKAGES:
        base = package if package == DAEMON else package.parent
        for path in package.rglob("*.py"):
            parts = path.relative_to(base).with_suffix("").parts
            names.add(".".join(parts).removesuffix(".__init__"))
    return names


def methods() -> set[str]:
    """Return the names of all classes and methods of the daemon, as CLASS and CLASS.METHOD."""
    names = set()
    for path in DAEMON.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names.add(node.name)
                names |= {
                    f"{node.name}.{each.name}"
                    for each in node.body
                    if isinstance(each, ast.FunctionDef)
                }
    return names


def test_picture_shows_the_imports() -> None:
    generator = ROOT / "docs" / "package_graph.py"
    fresh = subprocess.run(
        [sys.executable, generator], capture_output=True, text=True, check=True
    ).stdout
    picture = ROOT / "docs" / "images" / "packages.svg"
    assert picture.read_text() == fresh, f"run: python {generator} --write"


def test_table_lists_the_packages() -> None:
    table = re.findall(r"^   \* - ``(\w+)``$", PAGE.read_text(), re.MULTILINE)
    packages = {path.parent.name for path in DAEMON.glob("*/__init__.py")}
    assert packages | {"relay", "fastpath", "context"} == set(table)
    assert len(table) == len(set(table))


def test_named_modules_and_methods_exist() -> None:
    literals = set(re.findall(r"``([^`]+)``", PAGE.read_text()))
    named = {each for each in literals if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", each)}
    used = {each for each in literals if re.fullmatch(r"[A-Z]\w+(\.\w+)?", each)}
    assert "net.loop" in named
    assert "Loop.run_once" in used
    assert named <= modules()
    assert used <= methods()
