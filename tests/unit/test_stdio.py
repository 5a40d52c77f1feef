# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, full or without Unicode, in a small program."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import contextlib, socket, sys
from notif_relayd import stdio

def main(arguments):
    code, *_ = arguments
    exec(code)
    return 5

sys.exit(stdio.run("program", main))
"""

IGNORED = "\nwith contextlib.suppress(OSError): sys.stdout.write('x' * 100_000)"
MESSAGE = "stdio.ignore_errors_of_stderr(); sys.stderr.write('y')"
RETRIED = """
for _ in range(3):
    try: print('x', flush=True)
    except stdio.OutputError: lost = _
print(lost, file=sys.stderr)
"""
FULL = "program: cannot write to standard output: No space left on device\n"
CLOSED = "program: cannot write to standard output: Bad file descriptor\n"


def run(code: str, redirection: str = "", **environment: str) -> tuple[int, str, str]:
    """Return status, output and errors of a program that executes `code`, run by a shell."""
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" "$2" {redirection}', sys.executable, PROGRAM, code],
        capture_output=True,
        encoding="latin-1",
        env={**os.environ, **environment},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("code", "redirection", "expected"),
    [
        ("print('x')", "", (5, "x\n", "")),
        ("print('x')", ">/dev/full", (1, "", FULL)),
        ("print('x'); sys.exit(0)", ">/dev/full", (1, "", FULL)),
        (IGNORED, ">/dev/full", (1, "", FULL)),
        (RETRIED, ">&-", (1, "", f"2\n{CLOSED}")),
        ("print('x')", ">&-", (1, "", CLOSED)),
        ("print('x')", "<&- >&-", (1, "", CLOSED)),
        ("pass", "<&- >&- 2>&-", (5, "", "")),
        ("print('x'); sys.stderr.write('y')", "2>&-", (5, "x\n", "")),
        (f"print('x'); {MESSAGE}", "2>/dev/full", (5, "x\n", "")),
    ],
)
def test_lost_output_is_an_error_in_one_line(
    code: str, redirection: str, expected: tuple[int, str, str]
) -> None:
    assert run(code, redirection) == expected


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    code = "sys.exit(10 + socket.socket().fileno())"
    assert run(code, "<&- >&- 2>&-")[0] > 12


def test_reading_a_closed_stream_fails() -> None:
    code = "\ntry: sys.stdin.read()\nexcept OSError as error: print(error)"
    assert run(code, "<&-") == (5, "[Errno 9] Bad file descriptor\n", "")


@pytest.mark.parametrize(
    ("encoding", "output"),
    [
        ("latin-1", "\xe9\\u65e5\\ud83d\\ude00\\udcff\n"),
        ("ascii:strict", "\\u00e9\\u65e5\\ud83d\\ude00\\udcff\n"),
        ("utf-8", "é日😀\\udcff\n".encode().decode("latin-1")),
    ],
)
def test_missing_characters_are_escaped_as_in_json(encoding: str, output: str) -> None:
    code = r"print('\xe9\u65e5\U0001f600\udcff')"
    assert run(code, PYTHONIOENCODING=encoding) == (5, output, "")
