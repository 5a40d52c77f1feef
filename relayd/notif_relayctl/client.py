# SPDX-License-Identifier: Apache-2.0
"""Client of the control socket.

Only the control socket is connected to. systemd may hold the other two sockets and would start the
service for a connection, so the client examines their files only.
"""

import os
import socket
import stat
import time
from typing import TypeVar

import msgspec

from notif_relay import paths
from notif_relayctl.access import connect_failure
from notif_relayctl.errors import CtlError, NotRunningError

REQUEST_TIMEOUT = 5.0
"""Seconds for a request and its answer; the daemon takes about a millisecond."""

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes. Sufficient for one row for each of 65,536 connections, which is the maximum."""

T = TypeVar("T")


class _Answer(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw()
    error: str | None = None


def ask(path: str, method: str, kind: type[T], **parameters: object) -> T:
    """Send one request to the daemon and return the result.

    Args:
        path: the control socket.
        method: the method to call.
        kind: type of the result.
        parameters: parameters of the method.

    Raises:
        NotRunningError: no process listens on the socket.
        NotAllowedError: this user may not connect to the socket.
        CtlError: the daemon reported an error, there was no answer in time, or the answer is not a
            `kind`.
    """
    try:
        line = _exchange(path, msgspec.json.encode({"method": method, **parameters}) + b"\n")
        answer = msgspec.json.decode(line, type=_Answer)
        if answer.error is not None:
            raise CtlError(
                f"the daemon at {path} refused the request: {answer.error}"
                + ("; is it of another version?" if "no method" in answer.error else "")
            )
        return msgspec.json.decode(answer.result, type=kind)
    except (TimeoutError, BlockingIOError):  # BlockingIOError: the queue of connections is full.
        raise CtlError(
            f"the daemon at {path} does not answer within {REQUEST_TIMEOUT:.0f} seconds; "
            f"it may be stopped or overloaded"
        ) from None
    except OSError as error:
        failure = connect_failure(path, error)
        if isinstance(failure, NotRunningError):
            failure = NotRunningError(_not_running(path))
        raise failure from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CtlError(
            f"cannot decode the answer from {path}: {error}; is the daemon of another version?"
        ) from None


def _exchange(path: str, request: bytes) -> bytes:
    deadline = time.monotonic() + REQUEST_TIMEOUT
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(REQUEST_TIMEOUT)
        control.connect(path)
        control.sendall(request)
        answer = bytearray()
        while not answer.endswith(b"\n") and len(answer) < MAX_ANSWER:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            control.settimeout(remaining)
            data = control.recv(65536)
            if not data:
                raise ConnectionResetError(
                    "the daemon closed the connection; it is stopping, or it has too many clients"
                )
            answer += data
        return bytes(answer)


def _not_running(control_path: str) -> str:
    directory = os.path.dirname(control_path)
    public, ingest = (
        f"{path} {_presence(path)}"
        for path in (
            os.path.join(directory, paths.PUBLIC_SOCKET),
            os.path.join(directory, paths.INGEST_SOCKET),
        )
    )
    return (
        f"the daemon is not running: no process listens on {control_path}; "
        f"the public socket {public}, the private socket {ingest}"
    )


def _presence(path: str) -> str:
    try:
        return "exists" if stat.S_ISSOCK(os.stat(path).st_mode) else "is not a socket"
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be examined ({error.strerror})"
