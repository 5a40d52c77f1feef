# SPDX-License-Identifier: Apache-2.0
"""The version of the library, the daemon and relayctl; defined only here."""

__version__ = "0.2.0.dev0"
