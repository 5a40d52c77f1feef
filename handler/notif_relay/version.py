# SPDX-License-Identifier: Apache-2.0
"""The version of the distribution. Every other file reads it from here."""

__version__ = "0.2.0.dev0"
