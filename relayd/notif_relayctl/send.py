# SPDX-License-Identifier: Apache-2.0
"""relayctl send: send notifications as a service does, to test a set-up.

The records are sent by the library's sender, as those of a service. A sender drops a record that it
cannot send without raising an error. After each record, this command therefore checks the sender's
counter. If the record was not sent, it connects once more to find out the reason. At the end, it
waits until the relay has read everything, as the relay may have closed the connection before.
"""

import argparse
import datetime as dt
import json
import socket
import sys
import uuid
from collections.abc import Iterator

from notif_relay import paths, validity
from notif_relay.connection import Connection
from notif_relay.errors import InvalidRecord, RecordTooLarge
from notif_relay.priorities import PRIORITIES
from notif_relay.sender import Sender
from notif_relayctl import delivery
from notif_relayctl.access import connect_failure
from notif_relayctl.command import CtlCommand, utf8
from notif_relayctl.command import path as argument_path
from notif_relayctl.errors import CtlError, NotAllowedError
from notif_relayctl.priorities import OTHER_NAMES, priority

SEND_TIMEOUT = 5.0
"""Seconds to wait while the socket is full. A service waits for milliseconds only."""


class Send(CtlCommand):
    """Send notifications to the relay, as a service does.

    Nothing is printed if the relay has read all of them, or if they wait in its socket. The first
    notification that is invalid or cannot be sent ends the command. Those before it have been sent;
    if the relay has stopped in the meantime, it may not have read the last of them.
    """

    example = """relayctl send --event-type volume.test --priority WARN '{"size": 8}'"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options for the fields of the notification and for the socket."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--event-type", required=True, type=utf8, metavar="TYPE", help="the event_type"
        )
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
            type=utf8,
            metavar="ID",
            help="the publisher_id (default: %(default)s)",
        )
        parser.add_argument(
            "--ingest-path",
            type=argument_path,
            metavar="PATH",
            help=f"the private socket (default: {paths.INGEST_SOCKET} in the runtime directory)",
        )
        parser.add_argument(
            "payload",
            nargs="?",
            default="{}",
            metavar="PAYLOAD",
            help="the payload as JSON, or - to send one notification for each line of standard "
            "input; empty lines are skipped (default: %(default)s)",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Send all notifications; stop at the first that cannot be sent."""
        path = arguments.ingest_path or self.runtime_path(paths.INGEST_SOCKET)
        sender = Sender(path, max_wait=SEND_TIMEOUT)
        for number, (where, payload) in enumerate(_payloads(arguments.payload), start=1):
            record = _notification(where, payload, arguments)
            try:
                validity.check(record)
                sender.send(record)
            except InvalidRecord as error:
                raise CtlError(
                    f"{where}the relay would reject the notification: {error.reason}"
                ) from None
            except RecordTooLarge as error:
                raise CtlError(f"{where}{error}") from None
            if sender.sent != number:
                # Do not close the sender: that waits again for a partially sent record.
                raise undelivered(where, sender)
        self._check_delivery(sender)

    def _check_delivery(self, sender: Sender) -> None:
        """Raise an error if the relay has rejected or not read what was sent."""
        if sender.connects == 1:  # Otherwise, the counters of the relay began later.
            delivery.check_rejected(self.control_path, sender.sent)
        try:
            sender.finish(delivery.READ_TIMEOUT)
        except TimeoutError:
            pass  # The relay starts, or is busy or stopped; the records wait in its socket.
        except OSError:
            if sender.refusal:
                raise refused("", sender) from None
            raise CtlError(
                f"the relay at {sender.path} closed the connection and did not read everything; "
                "see its log"
            ) from None


def _payloads(argument: str) -> Iterator[tuple[str, bytes]]:
    """Yield each payload, and where it is in the input, as the beginning of an error message."""
    if argument != "-":
        yield "", _as_bytes(argument)
        return
    number = 0
    try:
        for number, line in enumerate(sys.stdin.buffer, start=1):
            if line.strip():
                yield f"line {number} of the input: ", line
    except OSError as error:
        raise CtlError(f"cannot read line {number + 1} of the input: {error.strerror}") from None


def _notification(where: str, payload: bytes, arguments: argparse.Namespace) -> str:
    try:
        return notification(
            arguments.event_type,
            arguments.priority,
            arguments.publisher,
            json.loads(payload.decode("utf-8-sig"), parse_int=_integer),
        )
    except RecursionError:
        raise CtlError(f"{where}the payload is nested too deeply") from None
    except _TooManyDigitsError as error:
        raise CtlError(f"{where}{error}") from None
    except ValueError as error:
        raise CtlError(f"{where}the payload is not valid JSON: {error}") from None


class _TooManyDigitsError(Exception):
    """Python does not convert a number."""


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise _TooManyDigitsError("a number in the payload has too many digits") from None


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


def refused(where: str, sender: Sender) -> CtlError:
    """Return the error for a relay that has refused the connection."""
    reason = f"the relay at {sender.path} refused the connection: {sender.refusal}"
    return NotAllowedError(f"{where}{reason}")


def undelivered(where: str, sender: Sender) -> CtlError:
    """Return why a record was not sent within `SEND_TIMEOUT` seconds.

    Args:
        where: prefix of the message.
        sender: the sender that could not send it.
    """
    if sender.refusal:
        return refused(where, sender)
    path = sender.path
    try:
        Connection(path).close()
    except OSError as error:
        failure = connect_failure(path, error)
        return type(failure)(f"{where}not sent: {failure}")
    return CtlError(
        f"{where}not sent: the relay at {path} accepted no data for {SEND_TIMEOUT:.0f} seconds or "
        "closed the connection; it may be stopped or overloaded; see its log"
    )
