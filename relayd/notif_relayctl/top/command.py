# SPDX-License-Identifier: Apache-2.0
"""relayctl top: asks the daemon again and again, and shows what has changed.

One loop waits for three things at once: a key, records to count by event type, and the time of
the next question.
"""

import argparse
import contextlib
import math
import select
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from notif_relayctl.command import number, seconds
from notif_relayctl.commands import Question
from notif_relayctl.errors import CtlError, not_installed
from notif_relayctl.top.busiest import Busiest
from notif_relayctl.top.keys import QUIT, Keys, unbuffered
from notif_relayctl.top.traffic import Sample, between
from notif_relayctl.top.view import Frame, View
from notif_relayd.control.schema import ProducerStatus, Status, SubscriberStatus

EVENT_TYPES = 10
"""How many of the busiest to show."""

PAGE_WIDTH = 120
"""Columns where there is no terminal that has some."""


class Top(Question):
    """Show rates, connections and event types continuously.

    To count event types, it subscribes, and is therefore one of the subscribers that it shows.
    """

    example = "relayctl top -n 1 --batch"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """How often, and for how long."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            *("-d", "--delay"),
            type=seconds,
            default=1.0,
            metavar="SECONDS",
            help="time between two frames (default: %(default)s)",
        )
        parser.add_argument(
            *("-n", "--count"),
            type=number,
            default=math.inf,
            metavar="N",
            help="end after so many frames",
        )
        parser.add_argument(
            "--batch",
            action="store_true",
            help="print frames one after the other, and read no keys",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Show frames until there is enough of it."""
        try:
            from rich.console import Console  # noqa: PLC0415 - slow to import
            from rich.live import Live  # noqa: PLC0415

            from notif_relayctl.top.screen import page, whole_screen  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise not_installed(error) from None
        terminal = sys.stdout.isatty()
        console = Console(width=None if terminal else PAGE_WIDTH, highlight=False)
        if arguments.batch:
            for frame in self._frames(arguments, None):
                console.print(page(frame))
            return
        if not terminal or not sys.stdin.isatty():
            raise CtlError("top needs a terminal; --batch prints its frames to anything")
        keys = Keys(sys.stdin.fileno())
        signal.signal(signal.SIGTERM, _interrupt)  # to leave the terminal as it was
        with (
            unbuffered(keys.fileno()),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            for frame in self._frames(arguments, keys):
                live.update(whole_screen(frame, console.height), refresh=True)

    def _frames(self, arguments: argparse.Namespace, keys: Keys | None) -> Iterator[Frame]:
        """A frame whenever there are new figures, and whenever a key was pressed.

        Without keys nobody looks before there are rates, and a daemon that is gone is the end.
        """
        view = View()
        before, sample, problem = None, self._sample(), None
        frames = 0
        with contextlib.closing(Busiest()) as busiest:
            busiest.connect(sample.status.public_socket)
            due = sample.at + arguments.delay
            while True:
                if keys or before:
                    traffic, rates = between(before, sample), busiest.rates(EVENT_TYPES)
                    yield Frame(traffic, rates, busiest.problem, problem, view)
                if frames == arguments.count:
                    return
                pressed = _wait(due, busiest, keys)
                if QUIT in pressed:
                    return
                for key in pressed:
                    view.press(key)
                if pressed:
                    continue
                frames += 1
                try:
                    before, sample, problem = sample, self._sample(), None
                    # Only beside a running daemon, since to connect may start it.
                    busiest.connect(sample.status.public_socket)
                except CtlError as error:
                    if keys is None:
                        raise
                    problem = str(error)
                busiest.run_once()
                due = max(due, time.monotonic()) + arguments.delay

    def _sample(self) -> Sample:
        return Sample(
            time.monotonic(),
            self.ask("status", Status),
            self.ask("producers", list[ProducerStatus]),
            self.ask("subscribers", list[SubscriberStatus]),
        )


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _wait(due: float, busiest: Busiest, keys: Keys | None) -> list[str]:
    """Count event types until keys are pressed, which are returned, or the time is up."""
    awaited: list[Keys | Busiest] = [keys] if keys else []
    while (remaining := due - time.monotonic()) > 0:
        sources = [*awaited, busiest] if busiest.connected else awaited
        ready, _, _ = select.select(sources, [], [], remaining)
        if keys and keys in ready:
            return keys.read()
        if ready:
            busiest.read()
    return []
