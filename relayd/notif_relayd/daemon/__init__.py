# SPDX-License-Identifier: Apache-2.0
"""The daemon's process: options, logging, start, and exit."""
