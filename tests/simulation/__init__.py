# SPDX-License-Identifier: Apache-2.0
"""The relay in a simulated kernel, and the model that it is compared with."""
