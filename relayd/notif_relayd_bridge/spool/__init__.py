# SPDX-License-Identifier: Apache-2.0
"""Notifications on disk while a broker is away."""
