# SPDX-License-Identifier: Apache-2.0
"""What one daemon process hands over to the next."""
