# SPDX-License-Identifier: Apache-2.0
"""relayctl send: send notifications as a service does, to test a set-up.

The records are sent by the library's sender, as those of a service. A sender drops a record that it
cannot send without raising an error. After each record, this command therefore checks the sender's
counter. If the record was not sent, it connects once more to find out the reason.
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
from notif_relay.request import PRIORITIES
from notif_relay.sender import Sender
from notif_relayctl.access import connect_failure
from notif_relayctl.command import CtlCommand
from notif_relayctl.errors import CtlError
from notif_relayctl.priorities import OTHER_NAMES, priority

SEND_TIMEOUT = 5.0
"""Seconds to wait while the socket is full. A service waits for milliseconds only."""


class Send(CtlCommand):
    """Send notifications to the relay, as a service does.

    Nothing is printed if the socket of the relay accepted all of them.
    """

    example = """relayctl send --event-type volume.test --priority WARN '{"size": 8}'"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options for the fields of the notification and for the socket."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--event-type", required=True, metavar="TYPE", help="the event_type")
        parser.add_argument(
            "--priority",
            default="INFO",
            type=priority,
            choices=PRIORITIES,
            metavar="PRIORITY",
            help=f"one of {', '.join(PRIORITIES)}, {OTHER_NAMES} (default: %(default)s)",
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
            help="the payload as JSON, or - to send one notification for each line of standard "
            "input (default: %(default)s)",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Send all notifications; stop at the first that cannot be sent."""
        many = arguments.payload == "-"
        payloads: Iterable[bytes] = sys.stdin.buffer if many else [_as_bytes(arguments.payload)]
        path = arguments.ingest_path or self.runtime_path(paths.INGEST_SOCKET)
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
                raise CtlError(f"{where}the payload is not valid JSON: {error}") from None
            except RecordTooLarge as error:
                raise CtlError(f"{where}{error}") from None
            if sender.sent != number:
                # Do not close the sender: that waits again for a partially sent record.
                raise undelivered(where, sender.path)
        sender.close()


def own_publisher() -> str:
    """Return the default publisher_id of notifications from relayctl."""
    return f"relayctl.{socket.gethostname()}"


def _as_bytes(argument: str) -> bytes:
    return argument.encode(errors="surrogateescape")  # the bytes of the command line


def notification(event_type: str, priority: str, publisher: str, payload: object) -> str:
    """Return the JSON that oslo.messaging's log driver logs for a notification.

    Raises:
        ValueError: the payload contains a number that JSON does not allow.
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
        allow_nan=False,  # Python accepts NaN and Infinity, JSON does not
    )


def undelivered(where: str, path: str) -> CtlError:
    """Return why a record was not sent to the socket at `path` within `SEND_TIMEOUT` seconds.

    Args:
        where: prefix of the message.
        path: the private socket.
    """
    try:
        Connection(path).close()
    except OSError as error:
        failure = connect_failure(path, error)
        return type(failure)(f"{where}not sent: {failure}")
    return CtlError(
        f"{where}not sent: the relay at {path} accepted no data for {SEND_TIMEOUT:.0f} seconds or "
        f"closed the connection; it may be stopped or overloaded, or have too many producers"
    )
