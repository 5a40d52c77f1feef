# SPDX-License-Identifier: Apache-2.0
"""Tests of targets whose client is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.waiting import TIMEOUT

SCRIPT = """
import importlib.abc, sys
from pathlib import Path
from support.bridge_targets import create_target

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, Missing())
create_target(sys.argv[2] + "://127.0.0.1", Path(sys.argv[3]))
"""


@pytest.mark.parametrize(("package", "scheme"), [("nats", "nats"), ("confluent_kafka", "kafka")])
def test_missing_client_is_one_line(tmp_path: Path, package: str, scheme: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, package, scheme, tmp_path],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"notif_relayd_bridge.errors.StartError: {package} is not installed: "
        f"run \"pip install '.[{scheme}]'\" in the sources of notif-relayd"
    )
