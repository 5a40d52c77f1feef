# SPDX-License-Identifier: Apache-2.0
"""relayctl tail: notifications as they come, for people and for pipes.

All that is difficult about it, connecting again and gaps above all, is the library's, and how a
record looks is `formats.py`'s. What is left is when to end, and what a terminal wants.
"""

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

import notif_relay
from notif_relay import paths
from notif_relay.connection import connect_error
from notif_relay.errors import PermissionDenied, RelayError, RelayUnavailable
from notif_relay.notification import Gap, Notification
from notif_relayctl.command import CtlCommand, number, seconds
from notif_relayctl.errors import CtlError, NotAllowedError, NotRunningError
from notif_relayctl.formats import FORMATS, SHORT, named
from notif_relayd.escaping import printable

COLOURS = {"CRITICAL": "1;31", "ERROR": "31", "WARN": "33", "DEBUG": "2"}
"""Of the priorities that have one, as ECMA-48 numbers it: bold and red, red, yellow, faint."""


class Tail(CtlCommand):
    """Show notifications as they arrive.

    With options, only the notifications that match all of them are shown. Patterns are shell
    globs. An option may be repeated; a notification matches it if any of its patterns matches.
    Lost notifications are shown as a gap where they are missing.
    """

    example = "relayctl tail --event-type 'compute.*' -o '{event_type} {payload[uuid]}'"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """What to show, how, and for how long."""
        parser = super().get_parser(prog_name)
        for option, meaning in (
            ("--event-type", "what happened, for instance compute.instance.*"),
            ("--priority", "how urgent it is, in upper or lower case"),
            ("--publisher", "who says so, for instance compute.*"),
        ):
            parser.add_argument(option, action="append", metavar="PATTERN", help=meaning)
        parser.add_argument(
            *("-o", "--output"),
            default=SHORT,
            metavar="FORMAT",
            help=f"{', '.join(FORMATS)}, or a template such as "
            "'{timestamp} {event_type} {payload[uuid]}' (default: %(default)s, which is cut off "
            "at a terminal's width); json is the record as it came, escaped in a terminal",
        )
        parser.add_argument(
            *("-n", "--count"), type=number, metavar="N", help="end after so many notifications"
        )
        parser.add_argument(
            *("--for",),
            dest="duration",
            type=seconds,
            metavar="SECONDS",
            help="end after this time",
        )
        parser.add_argument(
            "--no-reconnect",
            action="store_true",
            help="end with exit status 3 when the relay goes away, and do not wait for another",
        )
        parser.add_argument(
            "--sock-path",
            metavar="PATH",
            help=f"the public socket (default: {paths.PUBLIC_SOCKET} in the runtime directory)",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Show them until it is enough."""
        printer = Printer(sys.stdout, arguments.output)
        path = arguments.sock_path or self.beside_control(paths.PUBLIC_SOCKET)
        shown = 0
        with (
            contextlib.suppress(TimeoutError),  # the time is up
            _explained(),
            notif_relay.subscribe(
                path,
                event_type=arguments.event_type,
                priority=arguments.priority,
                publisher_id=arguments.publisher,
                timeout=arguments.duration,
                reconnect=not arguments.no_reconnect,
            ) as notifications,
            _calling(notifications.close, after=arguments.duration),
        ):
            if not os.path.exists(path):
                # A relay that is away is waited for. One that was never there may be a mistake.
                raise connect_error(path, FileNotFoundError())
            if not notifications.connected:
                self.app.stderr.write(f"relayctl: waiting for a relay at {printable(path)}\n")
            for notification in notifications:
                printer.print(notification)
                shown += not isinstance(notification, Gap)
                if shown == arguments.count:
                    return


class Printer:
    """Writes each notification at once, whatever reads it."""

    def __init__(self, out: TextIO, form: str) -> None:
        self._format = named(form)
        self._out = out.buffer
        is_json = form in {"json", "json-pretty"}
        self._terminal = out.fileno() if out.isatty() and not is_json else None
        self._escapes = is_json and out.isatty()  # A pipe gets the very bytes.
        self._cuts = form == SHORT
        self._colours = {}
        if not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            self._colours = COLOURS

    def print(self, notification: Notification) -> None:
        """Write it, and for people's eyes in its colour."""
        text = self._format(notification.raw)
        if self._escapes:
            text = "\n".join(map(printable, text.split("\n")))
        if self._terminal is not None:
            columns = os.get_terminal_size(self._terminal).columns
            if self._cuts and 0 < columns < len(text):  # 0 where it does not know its width
                text = text[: columns - 1] + "…"
            colour = self._colours.get(notification.priority.upper())
            if colour:
                text = f"\x1b[{colour}m{text}\x1b[m"
        self._out.write(text.encode(errors="surrogateescape") + b"\n")
        self._out.flush()


@contextlib.contextmanager
def _calling(function: Callable[[], None], after: float | None) -> Iterator[None]:
    if after is None:
        yield
        return
    timer = threading.Timer(after, function)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RelayUnavailable as error:
        raise NotRunningError(str(error)) from None
    except PermissionDenied as error:
        raise NotAllowedError(str(error)) from None
    except RelayError as error:
        raise CtlError(str(error)) from None
