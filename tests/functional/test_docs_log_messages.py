# SPDX-License-Identifier: Apache-2.0
"""The page about log messages has every message that the daemon has, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "log-messages.rst"
SOURCES = sorted((ROOT / "relayd" / "notif_relayd").rglob("*.py"))

METHODS = {"debug", "info", "warning", "error", "exception", "critical"}

BUILT_ELSEWHERE = {"_usual_group", "_notice"}
"""Functions that make a message which is not written where it is logged."""


def template(text: ast.expr) -> str:
    """A constant as it is, and an f-string with %s for what it puts in."""
    match text:
        case ast.Constant(value=str(constant)):
            return constant
        case ast.JoinedStr(values=values):
            return "".join(
                str(value.value) if isinstance(value, ast.Constant) else "%s" for value in values
            )
    return ""


def is_logging(call: ast.Call) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr in METHODS
        and ast.unparse(function.value) in {"LOG", "self._log"}
    )


def messages(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and is_logging(node):
            message = template(node.args[0])
            assert message, f"a message that nobody can look up: {ast.unparse(node)}"
            if message != "%s":
                yield message
        elif isinstance(node, ast.FunctionDef) and node.name in BUILT_ELSEWHERE:
            texts = (template(each) for each in ast.walk(node) if isinstance(each, ast.expr))
            yield max(texts, key=len)


def documented() -> set[str]:
    limits = re.findall(r"^``.+``$(?=\n    \S)", PAGE.read_text(), re.MULTILINE)
    return {message for term in limits for message in re.findall(r"``(.+?)``", term)}


def test_page_lists_exactly_the_daemons_messages() -> None:
    logged = {message for path in SOURCES for message in messages(ast.parse(path.read_text()))}
    assert "stopped" in logged
    assert documented() == logged
