# SPDX-License-Identifier: Apache-2.0
"""Records, filters, and requests, without sockets or system calls."""
