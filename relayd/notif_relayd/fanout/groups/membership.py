# SPDX-License-Identifier: Apache-2.0
"""A subscriber's subscription as a member of a group."""

from __future__ import annotations

from collections import deque

from notif_relayd.fanout.groups.live_group import LiveGroup
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.saved_state import MemberState, ViewState
from notif_relayd.fanout.subscriber import Stream, Subscription
from notif_relayd.records.subscription_request import Done


class Membership(Subscription):
    """The records that a group hands out to a subscriber.

    The subscription has a stream of its own, which keeps no records: what the socket does not take
    goes back to the group. Only the rest of a record that the socket took in part is kept, in the
    cursor.

    Args:
        group: the group.
        number: the number of the member in the group.
        member: the member.
        stream: a new stream of its own.
        owner: number of the subscriber's connection.
        charge: bytes charged to the user for the request.
    """

    __slots__ = ("_owed", "group", "left", "member", "number", "prompt")

    def __init__(
        self,
        group: LiveGroup,
        number: int,
        member: Member,
        stream: Stream,
        owner: int,
        charge: int,
    ) -> None:
        super().__init__(stream, owner, charge)
        self.group = group
        self.number = number
        self.member = member
        self.prompt = True
        """Whether the next request is handled without a delay: the last ones have finished records.
        """
        self.left = False
        """Whether the member has left the group, and only the rest of a record is sent."""
        self._owed = 0
        """Number of records of which that is the rest, if they count as finished."""

    @property
    def owed(self) -> int:
        """Number of finished records of which the socket has yet to take a part."""
        return 0 if self.cursor is None else min(self._owed, self.cursor.torn_lines)

    @property
    def group_name(self) -> str:
        """Name of the group."""
        return self.group.key[1]

    def finish(self, done: Done) -> int:
        """Note what the member reports as finished, unless it is about another group.

        A report may be on its way while a relay crashes; it is about the group that was lost.

        Returns:
            The number of records that were not finished before.

        Raises:
            GroupError: see `Member.finish`.
        """
        if done.group_since not in (None, self.group.since):
            return 0
        return self.member.finish(done.done)

    @property
    def delivered(self) -> int:
        """Number of records that the socket took."""
        return self.member.taken

    def restore_member(self, saved: MemberState) -> None:
        """Take what was saved of a membership in addition to the member."""
        self.left, self._owed = saved.left, saved.owed

    def note_progress(self, *, completing: bool = False) -> None:
        """Let the group know what the socket took.

        Args:
            completing: whether the rest of what the socket took in part is sent in any case.
        """
        lines = 0 if self.cursor is None or completing else self.cursor.torn_lines
        self.group.group.note_progress(self.member, lines)

    def leave(self, *, completing: bool) -> None:
        """Note that the member leaves the group.

        Args:
            completing: whether the rest of what the socket took in part is sent.
        """
        self.left = True
        self.has_more = False
        if completing and self.member.window is None:
            self._owed = sum(each.length for each in self.member.unsent)
        self.note_progress(completing=completing)

    def save_member(self) -> MemberState:
        """Return the member's part in the group."""
        self.note_progress()
        member = self.member
        uid, name = self.group.key
        return MemberState(
            uid,
            name,
            ViewState.of(member.view),
            member.window,
            member.hold,
            list(member.unfinished),
            list(member.gaps),
            member.unsent,
            member.missing,
            member.taken,
            member.sent,
            member.finished,
            member.attached,
            self.left,
            member.has_begun,
            self.owed,
        )


def member_of(saved: MemberState) -> Member:
    """Return a member with the state that `Membership.save_member` returned."""
    return Member(
        saved.view.view(),
        saved.window,
        deque(saved.unfinished),
        deque(saved.gaps),
        sum(each.length for each in saved.unfinished) + len(saved.gaps),
        saved.unsent,
        saved.missing,
        saved.taken,
        saved.sent,
        saved.finished,
        saved.attached,
        has_begun=saved.has_begun,
        hold=saved.hold,
    )
