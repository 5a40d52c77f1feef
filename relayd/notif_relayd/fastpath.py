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
from notif_relayd.ingest.intake import READ_SIZE, Intake
from notif_relayd.net import ancillary
from notif_relayd.net.loop import Events, Loop

try:
    from notif_relayd import _native
except ImportError as error:
    WHY_NOT = str(error)
else:
    WHY_NOT = ""

LOG = logging.getLogger(__name__)


class FastPath:
    """Waits in place of the loop, and relays records meanwhile.

    Args:
        intake: where records come from.
        fanout: where they go to.
    """

    def __init__(self, intake: Intake, fanout: Fanout) -> None:
        self._intake = intake
        self._fanout = fanout
        self._rules = intake.validator.rules
        self._peek = not ancillary.kernel_refuses()

    def wait(self, epoll: int, seconds: float) -> tuple[float, Events]:
        """See `Loop.wait`; nothing that was read may be waiting to be handed on.

        Raises:
            OSError: there is no such epoll.
        """
        sockets, most = self._fanout.fast_recipients(_native.MOST_SOCKETS)
        awake, happened, relayed = _native.wait(
            epoll, seconds, self._intake.steady, READ_SIZE, self._rules, sockets, most, self._peek
        )
        if relayed is not None:
            producer, run, routing_keys, results = relayed
            if routing_keys:
                self._intake.note(producer, len(run), len(routing_keys))
                self._intake.account(producer, self._fanout.publish(run, routing_keys, results))
            else:
                self._intake.take(producer, run)
        return awake, happened


def use(loop: Loop, intake: Intake, fanout: Fanout) -> None:
    """Let the loop wait that way, if it can."""
    if WHY_NOT:
        LOG.info("records take longer: there is no compiled part: %s", WHY_NOT)
    else:
        loop.wait = FastPath(intake, fanout).wait
