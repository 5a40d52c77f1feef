# SPDX-License-Identifier: Apache-2.0
"""The relay's answer to a producer whose connection it refuses: an error record with a sentence.

The answer cannot be waited for, because a producer that is admitted gets none.
"""

import logging

from notif_relay import records
from notif_relay.escaping import printable
from notif_relay.warning_limit import WarningLimit

MAX_ANSWER = 4096
"""Bytes of an answer that are read; the relay sends less than 1 KiB."""


def sentence_in(answer: bytes) -> str:
    """Return the relay's sentence; empty if the answer is not an error record."""
    record = answer.partition(b"\n")[0]
    if records.own_event_type(record) != records.ERROR:
        return ""
    return printable(dict(records.decode_pairs(record))["payload"])


class RefusalLog:
    """Logs a warning for each reason for which the relay refuses this process.

    Args:
        path: path of the private socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._limit = WarningLimit()

    def __call__(self, sentence: str) -> None:
        """Log the reason, as the relay states it, unless there are too many warnings."""
        if not self._limit.allows():
            return
        # Not at import: logging.config disables the loggers that exist before it is called.
        logger = logging.getLogger(__name__)
        if logger.disabled:
            logger = logging.getLogger()
        logger.warning(
            "Notifications are dropped, the relay at %s refuses them: %s", self._path, sentence
        )
