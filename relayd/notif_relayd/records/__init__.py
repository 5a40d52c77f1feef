# SPDX-License-Identifier: Apache-2.0
"""Records, filters and requests as bytes and objects; no sockets."""
