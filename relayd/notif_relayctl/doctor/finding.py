# SPDX-License-Identifier: Apache-2.0
"""What the doctor says: one row for each thing that was checked.

The columns and the results are an interface, as scripts select by them.
"""

from typing import NamedTuple

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


class Finding(NamedTuple):
    """One row."""

    check: str
    """What was checked; the same in every run that checks it."""
    result: str
    """`ok`; `warning`: it works, but perhaps not as meant; `failed`; `skipped`: not to be told."""
    finding: str
    """What there is, in a sentence."""
    advice: str = ""
    """What to do; empty where nothing has to be done."""
