# SPDX-License-Identifier: Apache-2.0
"""The process: options, logging, start and exit."""
