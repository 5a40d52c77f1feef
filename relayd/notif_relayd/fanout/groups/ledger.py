# SPDX-License-Identifier: Apache-2.0
"""What a group has yet to hand out and what its members have: its state and its figures."""

from __future__ import annotations

from collections.abc import Mapping

from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.groups.missing import Missing
from notif_relayd.fanout.groups.segment import Segments
from notif_relayd.fanout.groups.waiting import Waiting
from notif_relayd.fanout.saved_state import GroupState
from notif_relayd.fanout.subscriber import Stream


class Ledger:
    """The members of a group, its position, the records that wait, and those that are missing.

    Args:
        max_deliveries: number of members that may get a record; may be changed at any time.
    """

    def __init__(self, max_deliveries: int) -> None:
        self.max_deliveries = max_deliveries
        """Number of members that may get a record."""
        self.members: dict[int, Member] = {}
        """By the number of the member."""
        self.redelivered = 0
        """Number of times that a record was handed out again."""
        self.segments = Segments(self._oldest, self._is_finished)
        """What the group reads."""
        self._waiting = Waiting([])
        self._dropped = 0
        """Number of records that were found to be missing, or are not handed out again."""
        self._missing: Missing | None = None
        """What is to be announced before anything else is handed out."""
        self._deferred: Missing | None = None
        """What too many members have left unfinished in gap records. It is announced with the next
        records that are missing, so that members that cannot handle gap records get others."""
        self._given_up = 0
        """Number of records that are not handed out again, announced or not."""

    def save(
        self,
        uid: int,
        name: str,
        held_until: float | None,
        streams: Mapping[Stream, int],
        since: str,
    ) -> GroupState:
        """Return the state without the members, as `GroupState` describes it.

        Args:
            streams: the index of each stream in the saved state.
        """
        return GroupState(
            uid,
            name,
            self.segments.save(streams),
            self._waiting.runs,
            self._missing,
            self._deferred,
            self._dropped,
            self.redelivered,
            held_until,
            since,
            given_up=self._given_up,
        )

    def restore(self, saved: GroupState, streams: Mapping[int, Stream]) -> None:
        """Take a saved state, which `handover.state` has checked.

        Args:
            saved: what `save` returned.
            streams: the streams by their index in the saved state.
        """
        self.segments.restore(saved.segments, streams)
        self._waiting = Waiting(saved.waiting)
        self._missing, self._deferred = saved.missing, saved.deferred
        self._dropped, self.redelivered = saved.dropped, saved.redelivered
        self._given_up = saved.given_up

    def drop_waiting(self, runs: int) -> None:
        """Give up the oldest waiting records."""
        self.note_lost(self._waiting.remove_oldest(runs))

    @property
    def is_caught_up(self) -> bool:
        """Whether there is nothing to hand out to any member."""
        return self.has_read_all and not self._waiting.runs

    @property
    def has_read_all(self) -> bool:
        """Whether there is nothing to hand out but records that wait."""
        return self._missing is None and self.segments.at_end

    @property
    def waiting_runs(self) -> int:
        """Number of separate runs of records that wait."""
        return len(self._waiting)

    @property
    def lag(self) -> int:
        """Number of records in the rings that are still to be handed out."""
        return self.segments.lag + self._waiting.count - self._lost_waiting

    @property
    def dropped(self) -> int:
        """Number of records that no member will get, announced or not."""
        return self._dropped + sum(each.lost for each in self.segments) + self._lost_waiting

    @property
    def lost(self) -> int:
        """Number of these records that the ring lacks."""
        return self.dropped - self._given_up

    @property
    def _lost_waiting(self) -> int:
        """Number of waiting records that were evicted."""
        return sum(
            self._waiting.count_before((each.number, each.ring.first_seq)) for each in self.segments
        )

    @property
    def unfinished(self) -> int:
        """Number of records that members have and have not finished."""
        return sum(each.unfinished_count for each in self.members.values())

    def _announce(self, missing: Missing) -> None:
        """Announce missing records before anything else is handed out."""
        self._missing = missing if self._missing is None else self._missing.plus(missing)

    def _announce_new(self, missing: Missing) -> None:
        """Announce records that are found to be missing, and those that are deferred."""
        if self._deferred is not None:
            attempts = self.max_deliveries - 1
            missing, self._deferred = missing.plus(self._deferred)._replace(attempts=attempts), None
        self._announce(missing)

    def _announce_again(self, missing: Missing) -> None:
        """Announce what a gap record did that a member has left unfinished; defer it after several
        attempts."""
        missing = missing._replace(attempts=missing.attempts + 1)
        if missing.attempts < self.max_deliveries:
            self._announce(missing)
        else:
            self._deferred = missing if self._deferred is None else self._deferred.plus(missing)

    def note_lost(self, count: int) -> None:
        """Note that no member will get `count` records; they are to be announced."""
        if count:
            self._dropped += count
            self._announce_new(Missing(lost=count))
            self.segments.last.ring.store.has_lost = True

    def _oldest(self, number: int) -> int | None:
        """Return the sequence number of the oldest record of a segment that is not finished."""
        index = self._waiting.find((number, 0))
        waiting = self._waiting.runs[index : index + 1]
        taken = (run for each in self.members.values() for run in (*each.unfinished, *each.unsent))
        return min((run.first for run in (*waiting, *taken) if run.segment == number), default=None)

    def _is_finished(self, number: int) -> bool:
        """Return whether no record that was read of a segment waits, or is unfinished."""
        index = self._waiting.find((number, 0))
        waits = any(run.segment == number for run in self._waiting.runs[index : index + 1])
        return not waits and not any(each.has_some_of(number) for each in self.members.values())
