# SPDX-License-Identifier: Apache-2.0
"""The shortest way through a turn: from a producer's socket to the subscribers' in one call.

Most turns of a quiet host are for one record of one producer. What takes time then is not work:
after a while asleep hardly anything that a turn needs is in the processor's caches any more, and
the less it touches until the record is out, the sooner that is. So the call that waits, which is
in C++, goes on by itself where that is all that has happened and all of the records are good. What
it has done is noted here afterwards. Everything else goes its usual way, and everything does where
that call is not there, because it could not be compiled when the relay was installed.
"""

import logging

from notif_relayd.fanout.fanout import Fanout
from notif_relayd.ingest.intake import Intake
from notif_relayd.ingest.producer import READ_SIZE
from notif_relayd.net import ancillary
from notif_relayd.net.loop import Events

try:
    from notif_relayd import _native
except ImportError as error:
    WHY_NOT = str(error)
else:
    WHY_NOT = ""

LOG = logging.getLogger(__name__)


class FastPath:
    """Waits in place of the loop, and relays records meanwhile."""

    def connect(self, intake: Intake, fanout: Fanout) -> None:
        """Set where records come from and where they go; to be called before the first wait."""
        self._intake = intake
        self._fanout = fanout
        self._rules = intake.validator.rules
        self._peek = not ancillary.kernel_refuses()

    def wait(self, epoll: int, seconds: float) -> tuple[float, Events]:
        """See `Waiter.wait`; the intake must hold no lines that are not published.

        Raises:
            OSError: there is no such epoll.
        """
        recipients, threshold = self._fanout.fast_recipients(_native.MOST_SOCKETS)
        awake, events, relayed = _native.wait(
            epoll,
            seconds,
            self._intake.steady,
            READ_SIZE,
            self._rules,
            [each.socket.fileno() for each in recipients],
            threshold,
            self._peek,
        )
        if relayed is not None:
            producer, batch, routing_keys, results = relayed
            if routing_keys:
                self._intake.note(producer, len(batch), len(routing_keys))
                self._intake.account(
                    producer, self._fanout.publish(batch, routing_keys, recipients, results)
                )
            else:
                self._intake.take(producer, batch)
        return awake, events


def load() -> FastPath | None:
    """Return the fast path, or `None` if it was not compiled."""
    if WHY_NOT:
        LOG.info("records take longer: there is no compiled part: %s", WHY_NOT)
        return None
    return FastPath()
