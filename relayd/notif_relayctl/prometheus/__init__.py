# SPDX-License-Identifier: Apache-2.0
"""The relay's metrics in the formats of Prometheus, as text or over HTTP."""
