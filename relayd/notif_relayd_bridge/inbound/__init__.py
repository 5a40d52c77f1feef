# SPDX-License-Identifier: Apache-2.0
"""The direction from a broker to the relay."""
