# SPDX-License-Identifier: Apache-2.0
"""The blocks of the documentation, in the order in which a reader comes upon them.

Nothing is left out here: a block in a form that is not known would be one that nobody runs, and is
an error.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

MARKDOWN = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)

RST = re.compile(
    r"^\.\. code-block:: (?P<language>\w+)\n(?:   :caption: (?P<caption>.+)\n)?\n"
    r"(?P<text>(?:(?:   .*)?\n)+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """What is to be typed, written or seen."""

    language: str
    text: str
    where: str
    """A file, or a terminal other than the first; empty where it is not said."""

    @property
    def lines(self) -> list[str]:
        """The commands, without comments behind them."""
        return [re.sub(r"\s{2,}#.*", "", line) for line in self.text.splitlines() if line.strip()]


def tutorial() -> list[Block]:
    """All of the tutorial."""
    page = (ROOT / "docs" / "tutorial.rst").read_text()
    blocks = [
        Block(each["language"], textwrap.dedent(each["text"]).strip() + "\n", each["caption"] or "")
        for each in RST.finditer(page)
    ]
    marked = re.findall(r"^\.\. code-block|::$|^\.\. literalinclude", page, re.MULTILINE)
    assert len(blocks) == len(marked), "a block has a form that is not known"
    return blocks


def readme() -> list[Block]:
    """All of README.md. A file is the last one that the text before its block has named."""
    page = (ROOT / "README.md").read_text()
    blocks = []
    for each in MARKDOWN.finditer(page):
        named = re.findall(r"`(/etc/[^`]+)`", page[: each.start()])
        where = named[-1] if each["language"] == "ini" else ""
        blocks.append(Block(each["language"], each["text"], where))
    assert 2 * len(blocks) == page.count("```"), "a block has a form that is not known"
    return blocks
