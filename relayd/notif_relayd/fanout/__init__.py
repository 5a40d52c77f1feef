# SPDX-License-Identifier: Apache-2.0
"""Records out: the subscribers."""
