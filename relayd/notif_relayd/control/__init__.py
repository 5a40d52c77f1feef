# SPDX-License-Identifier: Apache-2.0
"""The control socket: message types, server, and answers."""
