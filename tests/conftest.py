# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests.

None fails because it was slow, which a busy machine makes of any. And what they start has a buffer
before its stderr, as a service has.
"""

import os

from hypothesis import settings

settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")

os.environ.pop("PYTHONUNBUFFERED", None)
