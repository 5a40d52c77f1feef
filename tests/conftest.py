# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests: none fails because it was slow, which a busy machine makes of any."""

from hypothesis import settings

settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")
