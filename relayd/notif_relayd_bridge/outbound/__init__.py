# SPDX-License-Identifier: Apache-2.0
"""Carries notifications from a relay to a broker."""
