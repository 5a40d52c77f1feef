# SPDX-License-Identifier: Apache-2.0
"""Keeps these tests for what ``make test-deb`` and ``make test-confined`` boot."""

import os

# test-run.service sets it.
if "NOTIF_RELAYD_PACKAGES" not in os.environ:
    collect_ignore_glob = ["*/test_*.py"]
