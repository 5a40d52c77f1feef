# SPDX-License-Identifier: Apache-2.0
"""The relay in a simulated kernel, compared with a model."""
