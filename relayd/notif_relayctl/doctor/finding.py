# SPDX-License-Identifier: Apache-2.0
"""A finding of the doctor, which is one row of its output.

The columns, the names of the checks and the results are an interface: scripts select rows by them.
"""

from typing import NamedTuple

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


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
