# SPDX-License-Identifier: Apache-2.0
"""Comparison of the relay with alternative programs, in one run and with the same work.

Absolute times depend on the machine and on its other load. Therefore the programs are measured
directly after each other in each round, and ratios are taken within a round. The median over the
rounds is compared with the required ratio.

The load generator is a compiled program that sends each peer's protocol as plain bytes (``load/``,
``wire``), so that no client library is measured. The relay and the load generator each have one
processor, the same two for all peers. All threads of a peer run on its processor, because the work
of one processor is compared. With one subscriber, the load generator has about as much work as the
relay; there, the processor time per delivered record is more significant than the rate.
"""
