# SPDX-License-Identifier: Apache-2.0
"""What a monitoring system is told of a running relay: the control socket's answer to `metrics`.

It is all from one moment, so that figures that belong together agree. Nothing is counted for it
that costs a record anything: the relay counts where it has to look anyway, and the rest is worked
out when somebody asks. Names for Prometheus are relayctl's business. Every reason is there from
the beginning, with 0: a counter that appears with its first count looks as if it had always been
that high.
"""

import platform
import time

import msgspec

from notif_relayd.control.report import Reporter, Status
from notif_relayd.fanout.fanout import Fanout
from notif_relayd.handover.state import ConnectionStatsState, LoopLatencyState
from notif_relayd.ingest.intake import Intake
from notif_relayd.net.loop_latency import BOUNDS, LoopLatency
from notif_relayd.records.gaps import REASONS
from notif_relayd.records.validator import Reason


class Metrics(msgspec.Struct):
    """The relay as a whole."""

    status: Status
    python: str
    """Version of the interpreter."""
    started: float
    """Seconds since 1970."""
    rejected: dict[str, int]
    """Records, by reason."""
    dropped: dict[str, int]
    """Records, by the reason that gap records have."""
    unknown_gaps: dict[str, int]
    """Gap records that had no number, by reason."""
    subscribers_behind: int
    max_lag: int
    """Records that the subscriber that is furthest behind has yet to get."""
    connections: dict[str, ConnectionStatsState]
    """By the name of the socket."""
    turn_bounds: list[float]
    """Seconds."""
    turns: LoopLatencyState
    """Of the loop; one count for each bound and one for all that were longer."""


def measure(reporter: Reporter, intake: Intake, fanout: Fanout, turns: LoopLatency) -> Metrics:
    """The relay at this moment."""
    status, losses = reporter.status(), intake.producer_gaps
    unknown = {reason: losses.unknown[reason] for reason in REASONS}
    unknown["relay_restarted"] += fanout.unknown_gaps
    behind = [each for each in fanout.subscribers.values() if each.reading.cursor is not None]
    return Metrics(
        status=status,
        python=platform.python_version(),
        started=round(time.time() - status.uptime_seconds, 3),
        rejected={reason.name.lower(): intake.rejected[reason] for reason in Reason},
        dropped={
            "slow_subscriber": status.records_dropped,
            **{reason: losses.dropped[reason] for reason in REASONS},
        },
        unknown_gaps=unknown,
        subscribers_behind=len(behind),
        max_lag=max((each.lag for each in behind), default=0),
        connections={
            "public": fanout.admission.counts.save(),
            "ingest": intake.admission.counts.save(),
        },
        turn_bounds=list(BOUNDS),
        turns=turns.save(),
    )
