# SPDX-License-Identifier: Apache-2.0
"""Groups: subscribers that share the records of a stream."""
