# SPDX-License-Identifier: Apache-2.0
"""Access control: permissions, limits, and quotas by user."""
