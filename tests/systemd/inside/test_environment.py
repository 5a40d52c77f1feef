# SPDX-License-Identifier: Apache-2.0
"""The environment of the calling process does not reach the container."""

import os
from pathlib import Path

from support.container import systemctl

LEAK = "leaked-from-the-caller"
"""The value that test_booted.py gives to the variables of the calling process."""


def test_callers_environment_does_not_reach_the_container() -> None:
    assert LEAK not in Path("/proc/1/environ").read_text().replace("\0", "\n")
    assert LEAK not in systemctl("show-environment")
    assert LEAK not in os.environ.values()
