# SPDX-License-Identifier: Apache-2.0
"""Collect the tests of ``inside/`` only in the container that test_booted.py boots."""

import os

# test-run.service sets it.
if "NOTIF_RELAYD_INSIDE" not in os.environ:
    collect_ignore = ["inside"]
