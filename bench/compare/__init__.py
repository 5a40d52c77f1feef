# SPDX-License-Identifier: Apache-2.0
"""The relay beside what users would take instead, measured in one run on the same work.

Figures in microseconds say more about a machine than about a program, and on a shared machine not
even that. So whatever is compared is measured right after one another, round by round, and only
the ratio within a round counts; the median over the rounds is held against what must be reached.

The load is a compiled program that speaks each peer's protocol as plain bytes (``load.c``,
``wire``), so that no client's library is measured. Relay and load each have a processor of their
own, all peers the same two, and a peer with several threads has them all on its one: what is
compared is what a processor achieves. At the width of one subscriber the load has about as much to
do as the relay, so there the processor time for each delivered record says more than the rate.
"""
