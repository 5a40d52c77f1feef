# SPDX-License-Identifier: Apache-2.0
"""A finding of the doctor, which is one row of its output.

The columns, the names of the checks and the results are an interface: scripts select rows by them.
"""

from typing import NamedTuple

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"

MAX_TEXT = 1000
"""Maximum number of characters of each column. The longest path of a socket has 107."""


class Finding(NamedTuple):
    """The result of one check, or one of several results."""

    check: str
    """Name of the check; the same in every run."""
    result: str
    """`ok`, `warning` (works, perhaps not as intended), `failed` or `skipped` (not checked)."""
    finding: str
    """What was found, as a sentence."""
    advice: str = ""
    """The remedy; empty if nothing needs to be done."""

    def shortened(self) -> "Finding":
        """Return a copy without the middle of long texts, which may come from a service's file."""
        return Finding(*map(_shortened, self))


def _shortened(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[: MAX_TEXT // 2]}...{text[-MAX_TEXT // 2 :]}"
