# SPDX-License-Identifier: Apache-2.0
"""What the container knows of who started it."""

import os
from pathlib import Path

from machine import systemctl

LEAK = "leaked-from-the-caller"
"""What test_booted.py sets the caller's variables to."""


def test_callers_environment_does_not_reach_the_container() -> None:
    assert LEAK not in Path("/proc/1/environ").read_text().replace("\0", "\n")
    assert LEAK not in systemctl("show-environment")
    assert LEAK not in os.environ.values()
