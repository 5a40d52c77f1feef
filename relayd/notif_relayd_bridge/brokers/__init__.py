# SPDX-License-Identifier: Apache-2.0
"""Brokers that the bridge sends to, each in a package of its own."""
