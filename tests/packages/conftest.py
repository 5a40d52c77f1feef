# SPDX-License-Identifier: Apache-2.0
"""Run these tests only in the container that ``make test-deb`` boots."""

import os

# test-run.service sets it.
if "NOTIF_RELAYD_PACKAGES" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
