# SPDX-License-Identifier: Apache-2.0
"""relayctl top: query the daemon periodically and show the rates between two answers.

One loop waits for three events: a key, records to count by event type, and the time of the next
query.
"""

import argparse
import contextlib
import datetime as dt
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

from notif_relayctl.command import number, seconds
from notif_relayctl.commands import ControlCommand
from notif_relayctl.errors import CtlError, missing_package
from notif_relayctl.top.busiest import Busiest
from notif_relayctl.top.keys import QUIT, Keys, unbuffered
from notif_relayctl.top.traffic import Sample, between
from notif_relayctl.top.view import Frame, View
from notif_relayd.control.schema import ProducerStatus, Status, SubscriberStatus

EVENT_TYPES = 10
"""Number of event types to show."""

PAGE_WIDTH = 120
"""Columns, if the output is not a terminal."""


class Top(ControlCommand):
    """Show rates, connections and event types continuously.

    To count event types, it subscribes, and is therefore one of the subscribers that it shows.
    While the relay does not answer, the last values are dim, and a line shows their time.
    """

    example = "relayctl top -n 1 --batch"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options for the interval and the end."""
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
            help="exit after N frames",
        )
        parser.add_argument(
            "--batch",
            action="store_true",
            help="print the frames one after the other, and read no keys",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Show frames until the count is reached or q is pressed."""
        try:
            from rich.console import Console  # noqa: PLC0415 - slow to import
            from rich.live import Live  # noqa: PLC0415

            from notif_relayctl.top.screen import page, whole_screen  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise missing_package(error) from None
        terminal = sys.stdout.isatty()
        for name in ("COLUMNS", "LINES"):
            if os.environ.get(name) == "0":  # The size is unknown; rich would show nothing.
                del os.environ[name]
        console = Console(width=None if terminal else PAGE_WIDTH, highlight=False)
        if arguments.batch:
            for frame in self._frames(arguments, None):
                console.print(page(frame))
            return
        if not terminal or not sys.stdin.isatty():
            raise CtlError("top requires a terminal; use --batch for other output")
        if console.is_dumb_terminal:
            raise CtlError(
                f"the terminal (TERM={os.environ['TERM']}) cannot show a screen; use --batch"
            )
        keys = Keys(sys.stdin.fileno())
        # A redirected standard output would not tell its encoding.
        live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False)
        with _screen(partial(unbuffered, keys.fileno()), lambda: live):
            for frame in self._frames(arguments, keys):
                live.update(whole_screen(frame, console.height), refresh=True)

    def _frames(self, arguments: argparse.Namespace, keys: Keys | None) -> Iterator[Frame]:
        """Yield a frame for each sample and for each key.

        With --batch, there are no keys. Then the first frame is omitted, since it has no rates, and
        the command fails if the daemon does not answer.
        """
        view = View()
        before, sample, problem = None, self._sample(), None
        answered = _local_time()
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
                    answered = _local_time()
                    # Only after an answer of the daemon: a connection could start the daemon.
                    busiest.connect(sample.status.public_socket)
                except CtlError as error:
                    if keys is None:
                        raise
                    problem = f"no answer since {answered}: {error}"
                busiest.next_frame()
                due = max(due, time.monotonic()) + arguments.delay

    def _sample(self) -> Sample:
        return Sample(
            time.monotonic(),
            self.ask("status", Status),
            self.ask("producers", list[ProducerStatus]),
            self.ask("subscribers", list[SubscriberStatus]),
        )


def _local_time() -> str:
    return dt.datetime.now().isoformat(" ", "seconds")


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Unblock Ctrl-Z, whose handler writes to the terminal and must not interrupt another write."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})


@contextlib.contextmanager
def _screen(*parts: Callable[[], contextlib.AbstractContextManager[object]]) -> Iterator[None]:
    """Enter all parts, and leave them while the process is stopped by Ctrl-Z and when it ends."""
    with contextlib.ExitStack() as entered:

        def enter() -> None:
            for part in parts:
                entered.enter_context(part())

        def stop(_number: int, _frame: FrameType | None) -> None:
            entered.close()
            os.kill(os.getpid(), signal.SIGSTOP)
            enter()

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, _interrupt)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        signal.signal(signal.SIGTSTP, stop)
        enter()
        yield


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _wait(due: float, busiest: Busiest, keys: Keys | None) -> list[str]:
    """Count event types until keys are pressed or the time is reached; return the keys."""
    inputs: list[Keys | Busiest] = [keys] if keys else []
    while (remaining := due - time.monotonic()) > 0:
        sources = [*inputs, busiest] if busiest.connected else inputs
        with _stoppable():
            ready, _, _ = select.select(sources, [], [], remaining)
        if keys and keys in ready:
            return keys.read()
        if ready:
            busiest.read()
    return []
