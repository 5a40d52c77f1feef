# SPDX-License-Identifier: Apache-2.0
"""The code blocks of the documentation, in their order, for the tests that execute them.

A block that the patterns here do not match is an error, because no test would execute it.
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
    """Commands to type, the content of a file, or expected output."""

    language: str
    text: str
    where: str
    """Name of the file, or of a terminal other than the first; may be empty."""
    section: str = ""
    """Heading of the section."""

    @property
    def lines(self) -> list[str]:
        """The commands, without comments at the end of the line."""
        return [re.sub(r"\s{2,}#.*", "", line) for line in self.text.splitlines() if line.strip()]


TRY, INSTALLING = "Try it", "Installing"
"""Sections of README.md."""


def rst(page: str, only: str = "") -> list[Block]:
    """Return all blocks of a page in docs, or of one section; sections are underlined with `=`."""
    text = (ROOT / "docs" / page).read_text()
    if only:
        [text] = re.findall(
            rf"^{only}\n=+\n.*?(?=^[^\n]+\n=+\n|\Z)", text, re.DOTALL | re.MULTILINE
        )
    blocks = []
    for each in RST.finditer(text):
        section = re.findall(r"^(.+)\n=+\n", text[: each.start()], re.MULTILINE)[-1]
        content = textwrap.dedent(each["text"]).strip() + "\n"
        blocks.append(Block(each["language"], content, each["caption"] or "", section))
    # A table is no block.
    marked = re.findall(
        r"^\.\. code-block|(?<!\.\. list-table)::$|^\.\. literalinclude", text, re.MULTILINE
    )
    assert len(blocks) == len(marked), "the pattern does not match every block"
    return blocks


def tutorial() -> list[Block]:
    """Return all blocks of the tutorial."""
    return rst("tutorial.rst")


def upgrading(section: str) -> list[Block]:
    """Return the blocks of a section about upgrading and removing."""
    blocks = [block for block in rst("howto/upgrading.rst") if block.section == section]
    assert blocks
    return blocks


def readme() -> list[Block]:
    """Return all blocks of README.md.

    Sections have headings of the second level. An `ini` block is the content of the file in /etc
    that the text names last before the block.
    """
    page = (ROOT / "README.md").read_text()
    blocks = []
    for each in MARKDOWN.finditer(page):
        named = re.findall(r"`(/etc/[^`]+)`", page[: each.start()])
        where = named[-1] if each["language"] == "ini" else ""
        section = re.findall(r"^## (.+)", page[: each.start()], re.MULTILINE)
        blocks.append(Block(each["language"], each["text"], where, section[-1] if section else ""))
    assert 2 * len(blocks) == page.count("```"), "the pattern does not match every block"
    return blocks
