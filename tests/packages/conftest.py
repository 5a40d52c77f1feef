# SPDX-License-Identifier: Apache-2.0
"""Keeps these tests for the container that ``make test-deb`` boots."""

import os

# test-run.service sets it.
if "NOTIF_RELAYD_PACKAGES" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
