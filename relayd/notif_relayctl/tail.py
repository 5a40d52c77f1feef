# SPDX-License-Identifier: Apache-2.0
"""relayctl tail: show notifications as they arrive, in a terminal or a pipe.

The library reconnects and reports gaps, and `formats` turns a record into text. This module decides
when to end, and adapts the output to a terminal.
"""

import argparse
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TextIO

import notif_relay
from notif_relay import paths
from notif_relay.connection import connect_error
from notif_relay.errors import RelayError
from notif_relay.notification import Gap, Notification
from notif_relayctl.access import relay_failure
from notif_relayctl.command import CtlCommand, number, seconds, utf8
from notif_relayctl.command import path as argument_path
from notif_relayctl.display import cropped, shown_json, symbol
from notif_relayctl.formats import FORMATS, SHORT, named
from notif_relayctl.payload import payload, united
from notif_relayctl.priorities import OTHER_NAMES, priority_pattern
from notif_relayd.escaping import printable

COLOURS = {"CRITICAL": "1;31", "ERROR": "31", "WARN": "33", "DEBUG": "2"}
"""Colours by priority, as parameters of SGR (ECMA-48): bold and red, red, yellow, faint."""


class Tail(CtlCommand):
    """Show notifications as they arrive.

    With options, only the notifications that match all of them are shown. Patterns are shell
    globs. An option may be repeated; a notification matches it if any of its patterns matches.
    Lost notifications are shown as a gap where they are missing.
    """

    example = "relayctl tail --event-type 'compute.*' -o '{event_type} {payload[uuid]}'"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options for filters, the format, and the end."""
        parser = super().get_parser(prog_name)
        patterns = partial(parser.add_argument, action="append", metavar="PATTERN")
        patterns(
            "--event-type",
            type=utf8,
            help="pattern of the event type, for example compute.instance.*",
        )
        patterns(
            "--priority",
            type=priority_pattern,
            help=f"pattern of the priority, for example warn; {OTHER_NAMES}",
        )
        patterns(
            "--publisher", type=utf8, help="pattern of the publisher_id, for example compute.*"
        )
        parser.add_argument(
            "--payload",
            type=payload,
            action="append",
            default=[],
            metavar="PATH=PATTERN",
            help="pattern of the value at a path in the payload, for example port.status=DOWN or "
            "size=100; or a JSON object, as in the filter of a subscriber; a notification must "
            "match each of the paths",
        )
        parser.add_argument(
            *("-o", "--output"),
            default=SHORT,
            metavar="FORMAT",
            help=f"{', '.join(FORMATS)}, or a template such as "
            "'{timestamp} {event_type} {payload[uuid]}' (default: %(default)s, which is truncated "
            "to the width of a terminal); json is the unchanged record, escaped in a terminal",
        )
        parser.add_argument(
            *("-n", "--count"), type=number, metavar="N", help="exit after N notifications"
        )
        parser.add_argument(
            *("--for",),
            dest="duration",
            type=seconds,
            metavar="SECONDS",
            help="exit after this time",
        )
        parser.add_argument(
            "--group",
            metavar="NAME",
            help="share the notifications with the other members of this group, which are "
            "subscribers of the same user: each notification goes to one of them",
        )
        parser.add_argument(
            "--window",
            type=number,
            metavar="N",
            help="with --group: a notification is finished when it has been written; N is the "
            "maximum number of unfinished ones; other members get those that are left at the end",
        )
        parser.add_argument(
            "--hold",
            type=seconds,
            metavar="SECONDS",
            help="with --group: time for which the group keeps its place without members",
        )
        parser.add_argument(
            "--no-reconnect",
            action="store_true",
            help="exit with status 3 if the connection ends, and do not wait for another relay",
        )
        parser.add_argument(
            "--sock-path",
            type=argument_path,
            metavar="PATH",
            help=f"the public socket (default: {paths.PUBLIC_SOCKET} in the runtime directory)",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Show notifications until the count or the time is reached."""
        # The library's warnings about a relay that is not available are not errors of this command.
        logging.getLogger("notif_relay").addHandler(logging.NullHandler())
        printer = Printer(sys.stdout, arguments.output)
        path = arguments.sock_path or self.runtime_path(paths.PUBLIC_SOCKET)
        shown = 0
        with (
            contextlib.suppress(TimeoutError),  # the time of --for is over
            _relayctl_errors(),
            notif_relay.subscribe(
                path,
                event_type=arguments.event_type,
                priority=arguments.priority,
                publisher_id=arguments.publisher,
                payload=united(arguments.payload),
                timeout=arguments.duration,
                reconnect=not arguments.no_reconnect,
                group=arguments.group,
                window=arguments.window,
                hold=arguments.hold,
            ) as notifications,
            _call_later(notifications.close, after=arguments.duration),
        ):
            if not os.path.exists(path):
                # A relay that has stopped is waited for. A path without a socket is probably wrong.
                raise connect_error(path, FileNotFoundError())
            if not notifications.connected:
                self.app.stderr.write(f"relayctl: waiting for a relay at {printable(path)}\n")
            if notifications.notice:
                self.app.stderr.write(f"relayctl: {printable(notifications.notice)}\n")
            for notification in notifications:
                printer.print(notification)
                notification.done()
                shown += not isinstance(notification, Gap)
                if shown == arguments.count:
                    return


class Printer:
    """Writes notifications to a terminal, a pipe or a file, and flushes after each of them.

    Args:
        out: the output.
        form: a format or a template, as `formats.named` accepts it.
    """

    def __init__(self, out: TextIO, form: str) -> None:
        self._format = named(form)
        self._out = out
        self._is_json = form == "json"
        self._terminal = out.fileno() if out.isatty() else None
        self._truncates = form == SHORT
        self._colours = {}
        if not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            self._colours = {} if form in {"json", "json-pretty"} else COLOURS

    def print(self, notification: Notification) -> None:
        """Write one notification; in a terminal, in the colour of its priority."""
        if self._is_json and self._terminal is None:
            self._out.buffer.write(notification.raw)
        else:
            text = self._format(notification.raw)
            if self._terminal is not None:
                text = self._in_terminal(text, self._terminal, notification.priority.upper())
            self._out.write(f"{text}\n")
        self._out.flush()

    def _in_terminal(self, text: str, terminal: int, priority: str) -> str:
        if self._is_json:
            return shown_json(text)
        columns = os.get_terminal_size(terminal).columns
        if self._truncates and columns > 0:  # 0: the width is unknown
            text = cropped(text, columns, symbol("…", "..."))
        colour = self._colours.get(priority)
        return f"\x1b[{colour}m{text}\x1b[m" if colour else text


@contextlib.contextmanager
def _call_later(function: Callable[[], None], after: float | None) -> Iterator[None]:
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
def _relayctl_errors() -> Iterator[None]:
    try:
        yield
    except RelayError as error:
        raise relay_failure(error) from None
