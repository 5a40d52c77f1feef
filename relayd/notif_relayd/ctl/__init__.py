# SPDX-License-Identifier: Apache-2.0
"""relayctl: what a running relay tells about itself."""
