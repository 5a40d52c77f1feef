# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests.

A test has a deadline (deadlines.py), far above what it takes on a busy machine, and Hypothesis has
none of its own. A started process buffers its standard error, as a service does.
"""

import os

from hypothesis import settings

from support import descriptors
from support.deadlines import (  # noqa: F401 - hooks and a fixture of pytest
    no_thread_is_left,
    pytest_addoption,
    pytest_configure,
    pytest_runtest_call,
    pytest_runtest_setup,
    pytest_runtest_teardown,
    pytest_sessionfinish,
    pytest_unconfigure,
)

settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")

os.environ.pop("PYTHONUNBUFFERED", None)

descriptors.raise_limit()
