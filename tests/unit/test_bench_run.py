# SPDX-License-Identifier: Apache-2.0
"""Command line of bench/run.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import run

BENCH = Path(__file__).parents[2] / "bench"


def test_single_figure_needs_earlier_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "BENCH", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "stalled"])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 2
    assert f"{tmp_path}/build/full/results.json does not exist" in capsys.readouterr().err


def test_unknown_figure_is_an_error() -> None:
    command = [sys.executable, str(BENCH / "run.py"), "none", "--size", "cheap"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown figure none: use fanout, emitting" in done.stderr
