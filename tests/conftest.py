# SPDX-License-Identifier: Apache-2.0
"""Settings for all tests.

Each phase of a test has a deadline (support/deadlines.py) far above its duration on a busy machine.
Hypothesis sets no deadline of its own. Started processes buffer their output, as services do.
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

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

os.environ.pop("PYTHONUNBUFFERED", None)

descriptors.raise_limit()
