# SPDX-License-Identifier: Apache-2.0
"""relayctl: asks a running relay, watches what goes through it, and tries it out."""
