# SPDX-License-Identifier: Apache-2.0
"""Runs of relayctl doctor, and access to the rows of its output."""

from __future__ import annotations

import grp
import json
import pwd
import subprocess
from pathlib import Path

from support.relayctl import (
    relayctl,
    relayctl_as_nobody,
)

Row = dict[str, str]


NOBODY = pwd.getpwuid(65534).pw_name


def examine(directory: Path, *arguments: str) -> list[Row]:
    """Run relayctl doctor; return its rows."""
    done = relayctl(directory, "doctor", "-f", "json", *arguments)
    return parse_rows(done)


def examine_as_nobody(directory: Path, *arguments: str) -> list[Row]:
    """Run relayctl doctor as the user nobody; return its rows."""
    return parse_rows(relayctl_as_nobody(directory, "doctor", "-f", "json", *arguments))


def parse_rows(done: subprocess.CompletedProcess[str]) -> list[Row]:
    """Return the rows in the JSON output, after checking them and the exit status."""
    assert done.stderr == ""
    rows: list[Row] = json.loads(done.stdout)
    assert done.returncode == any(row["result"] == "failed" for row in rows)
    for row in rows:
        assert list(row) == ["check", "result", "finding", "advice"]
        assert row["result"] in ("ok", "warning", "failed", "skipped")
        assert row["result"] != "ok" or row["advice"] == ""
        assert row["result"] not in ("warning", "failed") or row["advice"] != ""
    return rows


def rows_for(rows: list[Row], check: str) -> list[Row]:
    """Return the rows of a check."""
    return [row for row in rows if row["check"] == check]


def row_for(rows: list[Row], check: str) -> Row:
    """Return the only row of a check."""
    (row,) = rows_for(rows, check)
    return row


def failed_checks(rows: list[Row]) -> set[str]:
    """Return the checks with the result failed."""
    return {row["check"] for row in rows if row["result"] == "failed"}


def other_group() -> str:
    """Return a group of this host other than those of root and nobody."""
    return next(each.gr_name for each in grp.getgrall() if each.gr_gid not in (0, 65534))
