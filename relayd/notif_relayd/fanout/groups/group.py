# SPDX-License-Identifier: Apache-2.0
"""A group: one position in a stream that several subscribers share.

Each record goes to exactly one member whose view contains it. The records are handed out in the
order of the stream. A record that cannot be handed out at its turn waits beside the position:

- it was handed to a member that left without finishing it, or whose socket did not take it;
- it passes only the filters of members that have no room now.

Waiting records are handed out first, the oldest first. A record that no member wants is skipped.

This module decides which records a member gets, and what is missing. It knows nothing of sockets.
The caller sends what `Group.take` returns and reports the result to `Group.note_sent`, before
anything is appended to a ring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from notif_relay import records
from notif_relayd.fanout.groups.division import Batch, Division
from notif_relayd.fanout.groups.hand_out import Draft, HandOut, share
from notif_relayd.fanout.groups.ledger import Ledger
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.groups.missing import Missing, undeliverable
from notif_relayd.fanout.groups.run import Run, append, place_of, split
from notif_relayd.fanout.ring import Ring
from notif_relayd.fanout.subscriber import Stream
from notif_relayd.records.filters import View
from notif_relayd.records.selector import Mask, Selector

MAX_WAITING = 65536
"""Maximum number of records that wait only because the members that want them have no room."""


class Group(Ledger):
    """Members, their common position, and the records that they have not finished.

    A new group reads no stream: `segments.follow` or `restore` must be called next.

    Args:
        max_deliveries: number of members that may get a record.
        on_undeliverable: called with records that are not handed out again, and their number.
        selector: tells which filters a record passes.
    """

    def __init__(
        self,
        max_deliveries: int,
        on_undeliverable: Callable[[Iterator[bytes], int], None],
        selector: Selector[Stream],
    ) -> None:
        super().__init__(max_deliveries)
        self._on_undeliverable = on_undeliverable
        self._selector = selector
        self._masks: set[Mask] = set()
        """The bits of the views of the members."""

    @property
    def views(self) -> frozenset[View]:
        """The views of the members."""
        return frozenset(each.view for each in self.members.values())

    def join(self, number: int, member: Member) -> None:
        """Add a member; the caller has called `segments.follow` if its view requires that."""
        self.members[number] = member
        member.mask = self._selector.acquire(member.view)
        self._masks.add(member.mask)

    def leave(self, number: int) -> None:
        """Remove a member; its unfinished records wait for the others.

        The caller has called `note_progress`.

        Args:
            number: the number of the member.
        """
        member = self.members.pop(number)
        self._selector.release(member.view)
        self._masks = {each.mask for each in self.members.values()}
        begun, untouched = split(member.unsent, int(member.has_begun))
        attempted = (*member.unfinished, *begun)
        self._set_aside(each for run in attempted for each in self._after_attempt(run))
        for _, missing in member.gaps:
            self._announce_again(missing)
        if member.missing is not None:
            self._announce_again(member.missing)
        self._give_back(untouched)
        self._skip_unwanted()

    def rest(self) -> None:
        """Do not let the ring keep records, if there are none that the group has not finished.

        Until the next call of `segments.keep`, each record must be handed out before it is
        published.
        """
        if self.is_caught_up and not any(
            each.unfinished or each.unsent for each in self.members.values()
        ):
            self.segments.release()

    def has_work_for(self, member: Member) -> bool:
        """Return whether there may be something to hand out to a member."""
        if member.room <= 0:
            return False
        if self._missing is not None:
            return True
        if any(each.next_seq != each.end for each in self.segments):
            return not self._is_blocked(member)
        return self._first_waiting(member) < len(self._waiting) and not self._is_blocked(member)

    # Handing out

    def direct_room(self, member: Member, batch: Batch | None = None) -> int:
        """Return how many records of the next batch of the stream can be sent to a member directly.

        If any are sent, either `note_direct` or `take` must be called when they are in the ring.

        Args:
            member: the member.
            batch: the batch, if it is known.
        """
        if not self.has_read_all:
            return 0
        if self._waiting.runs and self._first_waiting(member) < len(self._waiting):
            return 0
        if not self._wants_all(member):
            if batch is None:
                return 0
            if not all(map(member.mask.contains, batch.passed(self._selector))):
                return 0
        return member.room

    def _wants_all(self, member: Member) -> bool:
        """Return whether a member wants every record of the stream that the group reads now."""
        return member.view.is_unfiltered or self.segments.last.stream.views == {member.view}

    def note_direct(self, member: Member, count: int) -> None:
        """Note that a member got the next `count` records."""
        segment = self.segments.first
        if member.window is None:
            member.taken += count
        else:
            self._note_taken(member, [Run(segment.number, segment.next_seq, count)])
        segment.next_seq += count

    def take(self, member: Member, *, takers: int = 1, direct: bool = False) -> HandOut | None:
        """Assign the next records to a member; `None` if it has no room or there are none for it.

        `note_sent` must be the next call.

        Args:
            member: the member.
            takers: number of members among which a few records are divided, this one included.
            direct: whether the records were sent to the member directly.
        """
        if not self.has_work_for(member):
            return None
        if self._missing is not None:
            return self._take_gap(self._missing)
        draft = Draft(member, self._masks, self._selector)
        if not direct:
            count = sum(each.end - each.next_seq for each in self.segments) + self._waiting.count
            draft.room = min(draft.room, share(takers, count))
        self._take_waiting(member, draft)
        waits = self._first_waiting(member) < len(self._waiting)
        if not (waits or draft.attempts or self._missing is not None):
            self._take_next(member, draft, direct=direct)
        if not draft.runs:
            return None if self._missing is None else self._take_gap(self._missing)
        if not draft.attempts:
            return HandOut(b"", draft.data, draft.runs)
        count = sum(each.length for each in draft.runs)
        self.redelivered += count
        return HandOut(records.redelivered(count), draft.data, draft.runs)

    def divide(self, members: Iterable[Member], batch: Batch) -> list[tuple[Member, HandOut]]:
        """Assign the records of a batch, which the ring has just taken, to some members.

        Nothing is assigned if there are older records to hand out, or if each of the members that
        have room wants every record: then `take` need not look at the records. `note_sent` must be
        called for each member that gets something and is still in the group.

        Args:
            members: the members that may get records.
            batch: the batch.
        """
        segment = self.segments.first
        is_next = segment.next_seq == segment.ring.next_seq - len(batch)
        if self._missing is not None or segment.stop_seq is not None or not is_next:
            return []
        candidates = []
        for member in members:
            if self._first_waiting(member) == len(self._waiting):
                candidates.append(member)
            elif not self._is_blocked(member):
                return []
        if all(map(self._wants_all, candidates)):
            return []
        first = Run(segment.number, segment.next_seq, 1)
        passed = batch.passed(self._selector)
        division = Division(first, passed, candidates, self._masks)
        segment.next_seq += len(batch)
        if division.waiting:
            self._set_aside(division.waiting)
            waiting = division.waiting_passed
            for member in candidates:
                if not any(map(member.mask.contains, waiting)):
                    member.examined = segment.number, segment.next_seq
            self.note_lost(self._waiting.limit(MAX_WAITING))
        return list(division.hand_outs(batch.data))

    def _take_gap(self, missing: Missing) -> HandOut:
        """Return the next gap record of those that announce what is missing."""
        announced, self._missing = missing.split()
        return HandOut(announced.record, [], [], announced)

    def note_sent(self, member: Member, hand_out: HandOut, sent: int) -> bytes:
        """Note what the socket of a member took.

        Args:
            member: the member.
            hand_out: what `take` has returned.
            sent: number of bytes that the socket took of `head` and `data`.

        Returns:
            The bytes that must be sent to this member before anything else; empty if there are
            none. If there are some, the caller calls `note_progress` when the socket took them.
        """
        head, data, runs = hand_out.head, hand_out.data, hand_out.runs
        member.unsent = []
        if sent == len(head) + sum(map(len, data)):
            self._note_taken(member, runs)
            if hand_out.missing is not None:
                member.note_gap(hand_out.missing)
            return b""
        if not sent:
            if hand_out.missing is not None:
                self._announce(hand_out.missing)
            self._give_back(_marked(runs) if hand_out.is_part else runs)
            if head and runs:
                self.redelivered -= sum(each.length for each in runs)
            return b""
        if head:
            # The number of redelivered records was announced, so this member must get them.
            member.unsent, member.missing = runs, hand_out.missing
            return b"".join((head, *data))[sent:]
        return self._note_part(member, hand_out, b"".join(data), sent)

    def note_progress(self, member: Member, lines: int) -> None:
        """Note what the socket took of the bytes that `note_sent` has returned.

        Args:
            member: the member.
            lines: number of lines of which the socket has yet to take a part.
        """
        count = sum(each.length for each in member.unsent)
        taken, member.unsent = split(member.unsent, max(0, count - lines))
        member.has_begun = 0 < lines <= count
        self._note_taken(member, taken)
        if member.missing is not None and not lines:
            member.note_gap(member.missing)
            member.missing = None

    def _note_part(self, member: Member, hand_out: HandOut, data: bytes, sent: int) -> bytes:
        """Note that the socket took `sent` bytes of records; return the rest of the last one."""
        taken, others = split(hand_out.runs, data.count(b"\n", 0, sent))
        self._note_taken(member, taken)
        end = data.find(b"\n", sent - 1) + 1
        if end != sent:
            member.unsent, others = split(others, 1)
        self._give_back(_marked(others) if hand_out.is_part else others)
        return data[sent:end]

    def _note_taken(self, member: Member, runs: list[Run]) -> None:
        """Note that a member got records completely."""
        for run in runs:
            member.taken += run.length
            if member.window is not None:
                member.sent += run.length
                member.unfinished_count += run.length
                member.unfinished_in[run.segment] += run.length
                append(member.unfinished, run)

    # Selecting records

    def _take_next(self, member: Member, draft: Draft, *, direct: bool) -> None:
        """Take records at the position; the member was offered all that wait."""
        for segment in self.segments:
            while not draft.full:
                lost = segment.lost
                if lost:
                    # The gap record comes before the records that follow.
                    segment.next_seq += lost
                    self.note_lost(lost)
                    return
                if segment.next_seq == segment.end:
                    break
                chunk = segment.ring.find(segment.next_seq)
                end = min(chunk.end, segment.end)
                run = Run(segment.number, segment.next_seq, end - segment.next_seq)
                views = {member.view} if direct else segment.stream.views
                kept, offered = draft.offer(chunk, run, views)
                segment.next_seq += offered
                self._set_aside(kept)
                member.examined = segment.number, segment.next_seq
        self._skip_unwanted()
        self.note_lost(self._waiting.limit(MAX_WAITING))

    def _take_waiting(self, member: Member, draft: Draft) -> None:
        """Take records that wait."""
        index = self._waiting.split_at(member.examined)
        while index < len(self._waiting) and not draft.full:
            run = self._waiting.runs[index]
            segment = self.segments.of(run)
            lost = self.segments.lost_of(run)
            if lost:
                self.note_lost(lost)
                self._waiting.replace(index, [run.tail(lost)])
                if draft.runs:
                    break
                continue
            if self._missing is not None or not draft.accepts(run):
                break
            chunk = segment.ring.find(run.first)
            count = min(run.length, chunk.end - run.first)
            if run.is_suspect:
                draft.room = count = 1
            kept, offered = draft.offer(chunk, run.head(count), segment.stream.views)
            self._waiting.replace(index, [*kept, run.tail(offered)])
            index += len(kept)
            if offered < count:
                break
        if index < len(self._waiting):
            member.examined = place_of(self._waiting.runs[index])
        elif self._waiting:
            last = self._waiting.runs[-1]
            member.examined = last.segment, last.end
        self._skip_unwanted()

    # Records that wait

    def _first_waiting(self, member: Member) -> int:
        """Return the index of the first waiting run that was not offered to a member."""
        return self._waiting.find_end(member.examined)

    def _skip_unwanted(self) -> None:
        """Skip the oldest waiting records, if each member has examined them and wants none."""
        if self._waiting and self.members:
            place = min(each.examined for each in self.members.values())
            for run in self._waiting.remove_before(place):
                self.note_lost(self.segments.lost_of(run))

    def _is_blocked(self, member: Member) -> bool:
        """Return whether a member must finish all it has before it can get a suspect record."""
        if not member.unfinished_count:
            return False
        index = self._first_waiting(member)
        return index < len(self._waiting) and self._waiting.runs[index].is_suspect

    def _after_attempt(self, run: Run) -> Iterator[Run]:
        """Yield what can be handed out again of a run that a member has left unfinished."""
        run = run._replace(attempts=run.attempts + 1)
        if run.attempts < self.max_deliveries:
            yield run
            return
        ring = self.segments.of(run).ring
        lost = self.segments.lost_of(run)
        self.note_lost(lost)
        run = run.tail(lost)
        self._dropped += run.length
        self._given_up += run.length
        if run.length:
            self._on_undeliverable(_records_of(run, ring), run.length)
        while run.length:
            chunk = ring.find(run.first)
            count = min(run.length, chunk.end - run.first)
            missing = undeliverable(bytes(chunk.part(run.first - chunk.first, count)), count)
            if missing is not None:
                self._announce_new(missing)
            run = run.tail(count)

    def _give_back(self, runs: Iterable[Run]) -> None:
        """Take records back that a member did not get completely."""
        for run in reversed(list(runs)):
            segment = self.segments.of(run)
            # Waiting records are handed out first, so none may come after the position.
            is_last = self._waiting.find(place_of(run)) == len(self._waiting)
            if is_last and run.end == segment.next_seq and not run.attempts:
                segment.next_seq = run.first
            else:
                self._set_aside([run])

    def _set_aside(self, runs: Iterable[Run]) -> None:
        """Let records wait."""
        added = list(runs)
        if not added:
            return
        self._waiting.add(added)
        first = min(map(place_of, added))
        for each in self.members.values():
            each.examined = min(each.examined, first)


def _marked(runs: Iterable[Run]) -> Iterator[Run]:
    """Let records be handed out after a mark of redelivery.

    A member that gets them may have got later records of the same producer before.
    """
    return (run._replace(attempts=max(1, run.attempts)) for run in runs)


def _records_of(run: Run, ring: Ring) -> Iterator[bytes]:
    """Yield the records of a run; the ring must have all of them."""
    for seq in range(run.first, run.end):
        chunk = ring.find(seq)
        yield bytes(chunk.part(seq - chunk.first, 1))
