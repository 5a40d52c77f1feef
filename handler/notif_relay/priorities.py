# SPDX-License-Identifier: Apache-2.0
"""The names of priorities."""

PRIORITIES = ("AUDIT", "DEBUG", "INFO", "WARN", "ERROR", "CRITICAL", "SAMPLE")
"""The priorities of notifications; oslo.messaging's Notifier has a method for each."""

OTHER_SPELLINGS = {"WARNING": "WARN", "ERR": "ERROR", "CRIT": "CRITICAL", "FATAL": "CRITICAL"}
"""Priorities by the names that ``logging`` and syslog have for them.

No notification has such a name, so a pattern that is one is an error, which names the priority.
``relayctl`` accepts them from operators.
"""
