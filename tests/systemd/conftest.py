# SPDX-License-Identifier: Apache-2.0
"""Keeps the tests of ``inside/`` for the container that test_booted.py boots."""

import os

# test-run.service sets it.
if "NOTIF_RELAYD_INSIDE" not in os.environ:
    collect_ignore = ["inside"]
