# SPDX-License-Identifier: Apache-2.0
"""The bridge: a process that carries notifications between this host's relay and a broker."""
