# SPDX-License-Identifier: Apache-2.0
"""Which user may do what, and how much of it."""
