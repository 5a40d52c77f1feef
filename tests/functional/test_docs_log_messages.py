# SPDX-License-Identifier: Apache-2.0
"""Check that the page about log messages lists exactly those of the daemon and the bridge."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "log-messages.rst"
SOURCES = sorted(
    path
    for package in ("notif_relayd", "notif_relayd_bridge")
    for path in (ROOT / "relayd" / package).rglob("*.py")
)

METHODS = {"debug", "info", "warning", "error", "exception", "critical"}


def template(text: ast.expr) -> str:
    """Return the text of a string constant or f-string, with %s for each inserted value."""
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


def messages(tree: ast.AST) -> Iterator[str | None]:
    """Yield each message that the module logs; None for one whose text is elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and is_logging(node):
            message = template(node.args[0])
            assert message, f"the message is not a literal: {ast.unparse(node)}"
            yield None if message == "%s" else message
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.LogRecord":
            yield None


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of all strings of the module."""
    return (template(node) for node in ast.walk(tree) if isinstance(node, ast.expr))


def documented() -> set[str]:
    limits = re.findall(r"^``.+``$(?=\n    \S)", PAGE.read_text(), re.MULTILINE)
    return {message for term in limits for message in re.findall(r"``(.+?)``", term)}


def test_page_lists_exactly_the_logged_messages() -> None:
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    logged = Counter(message for tree in trees for message in messages(tree))
    elsewhere = logged.pop(None)
    assert "stopped" in logged
    assert logged.keys() <= documented()
    others = documented() - logged.keys()
    assert others <= {text for tree in trees for text in texts(tree)}
    assert len(others) == elsewhere
