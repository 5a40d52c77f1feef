# SPDX-License-Identifier: Apache-2.0
"""relayctl send: notifications as a service would emit them, to try a set-up with.

They go the way of a service's: through the library's sender. A sender is made never to trouble a
service, so it drops in silence what it cannot send. Here somebody waits for the outcome: after
each record the sender's count is looked at, and a failure is explained by connecting once more.
"""

import argparse
import datetime as dt
import json
import socket
import sys
import uuid
from collections.abc import Iterable

from notif_relay import paths
from notif_relay.connection import Connection
from notif_relay.errors import RecordTooLarge
from notif_relay.sender import Sender
from notif_relayctl.access import connect_failure
from notif_relayctl.command import CtlCommand
from notif_relayctl.errors import CtlError

PRIORITIES = ("AUDIT", "DEBUG", "INFO", "WARN", "ERROR", "CRITICAL", "SAMPLE")
"""What oslo.messaging's Notifier has a method for."""

SEND_TIMEOUT = 5.0
"""Seconds for which a full socket is waited for; a service would drop after milliseconds."""


class Send(CtlCommand):
    """Send notifications to the relay, as a service does.

    Nothing is printed if the socket of the relay accepted all of them.
    """

    example = """relayctl send --event-type volume.test --priority WARN '{"size": 8}'"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The fields of the notification, and the socket."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--event-type", required=True, metavar="TYPE")
        parser.add_argument(
            "--priority",
            default="INFO",
            type=str.upper,
            choices=PRIORITIES,
            metavar="PRIORITY",
            help=f"one of {', '.join(PRIORITIES)} (default: %(default)s)",
        )
        parser.add_argument(
            "--publisher",
            default=own_publisher(),
            metavar="ID",
            help="the publisher_id (default: %(default)s)",
        )
        parser.add_argument(
            "--ingest-path",
            metavar="PATH",
            help=f"the private socket (default: {paths.INGEST_SOCKET} in the runtime directory)",
        )
        parser.add_argument(
            "payload",
            nargs="?",
            default="{}",
            metavar="PAYLOAD",
            help="JSON, or - for many of them from standard input, each on a line of its own "
            "(default: %(default)s)",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Send them, up to the first that cannot be."""
        many = arguments.payload == "-"
        payloads: Iterable[bytes] = sys.stdin.buffer if many else [_as_bytes(arguments.payload)]
        path = arguments.ingest_path or self.beside_control(paths.INGEST_SOCKET)
        sender = Sender(path, max_wait=SEND_TIMEOUT)
        for number, payload in enumerate(payloads, start=1):
            where = f"line {number} of the input: " if many else ""
            try:
                sender.send(
                    notification(
                        arguments.event_type,
                        arguments.priority,
                        arguments.publisher,
                        json.loads(payload.decode()),
                    )
                )
            except (ValueError, RecursionError) as error:
                raise CtlError(f"{where}the payload is not JSON: {error}") from None
            except RecordTooLarge as error:
                raise CtlError(f"{where}{error}") from None
            if sender.sent != number:
                # Not closed, which would wait once more for what was half sent.
                raise undelivered(where, sender.path)
        sender.close()


def own_publisher() -> str:
    """The publisher_id of what relayctl itself sends."""
    return f"relayctl.{socket.gethostname()}"


def _as_bytes(argument: str) -> bytes:
    return argument.encode(errors="surrogateescape")  # as it was given to the process


def notification(event_type: str, priority: str, publisher: str, payload: object) -> str:
    """The JSON that oslo.messaging's log driver would log.

    Raises:
        ValueError: the payload has a number that JSON has not.
    """
    return json.dumps(
        {
            "message_id": str(uuid.uuid4()),
            "publisher_id": publisher,
            "event_type": event_type,
            "priority": priority,
            "payload": payload,
            "timestamp": str(dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)),
        },
        allow_nan=False,  # which Python reads and writes, but which is no JSON
    )


def undelivered(where: str, path: str) -> CtlError:
    """Why the socket at `path` did not take what was sent, after waiting for `SEND_TIMEOUT`."""
    try:
        Connection(path).close()
    except OSError as error:
        failure = connect_failure(path, error)
        return type(failure)(f"{where}not sent: {failure}")
    return CtlError(
        f"{where}not sent: the relay behind {path} takes no more for {SEND_TIMEOUT:.0f} seconds or "
        f"has hung up; see whether it is stopped, overloaded, or has too many producers"
    )
