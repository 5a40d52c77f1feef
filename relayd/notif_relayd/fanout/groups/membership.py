# SPDX-License-Identifier: Apache-2.0
"""A subscriber's subscription as a member of a group."""

from __future__ import annotations

from notif_relayd.fanout.groups.live_group import LiveGroup
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.saved_state import MemberState, ViewState
from notif_relayd.fanout.subscriber import Stream, Subscription


class Membership(Subscription):
    """The records that a group hands out to a subscriber.

    The subscription has a stream of its own, which keeps no records: what the socket does not take
    goes back to the group. Only the rest of a record that the socket took in part is kept, in the
    cursor.

    Args:
        group: the group.
        number: the number of the member in the group.
        member: the member.
        hold: seconds for which the group keeps its place after this member has left as the last.
        store: where memory is charged.
        charge: bytes charged to the user for the request.
    """

    __slots__ = ("_counted", "group", "hold", "left", "member", "number", "prompt")

    def __init__(
        self,
        group: LiveGroup,
        number: int,
        member: Member,
        hold: float,
        store: Store,
        charge: int,
    ) -> None:
        stream = Stream(frozenset((member.view,)), store)
        stream.ring.restore(member.taken)
        super().__init__(stream, charge)
        self.group = group
        self.number = number
        self.member = member
        self.hold = hold
        self.prompt = True
        """Whether the next request is handled without a delay: the last ones have finished records.
        """
        self._counted = member.taken
        self.left = False
        """Whether the member has left the group, and only the rest of a record is sent."""

    @property
    def group_name(self) -> str:
        """Name of the group."""
        return self.group.key[1]

    @property
    def owed(self) -> int:
        """Number of lines, of those that `Group.note_sent` has returned, that were not sent."""
        return 0 if self.cursor is None else self.cursor.torn_lines

    @property
    def delivered(self) -> int:
        """Number of records that the socket took."""
        if self.cursor is None:
            return super().delivered
        unsent = sum(each.length for each in self.member.unsent)
        return super().delivered + self.member.taken - self._counted + max(0, unsent - self.owed)

    def note_progress(self) -> None:
        """Note what the socket took of the lines that the cursor sends."""
        if self.cursor is not None:
            self.group.group.note_progress(self.member, self.owed)

    def update(self) -> None:
        """Count the records that the socket took; not allowed while there is a cursor."""
        self.stream.ring.skip(self.member.taken - self._counted)
        self._counted = self.member.taken

    def save_member(self) -> MemberState:
        """Return the member's part in the group."""
        member = self.member
        uid, name = self.group.key
        return MemberState(
            uid,
            name,
            ViewState.of(member.view),
            member.window,
            float(self.hold),
            list(member.unfinished),
            member.unsent,
            member.missing.lost,
            member.missing.undeliverable,
            self._counted,
            member.sent,
            member.finished,
            member.attached,
            self.left,
            self.owed,
        )
