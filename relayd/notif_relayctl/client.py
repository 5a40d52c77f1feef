# SPDX-License-Identifier: Apache-2.0
"""Asks the control socket, and says what it means when nobody answers.

Only the control socket is ever connected to. The other two may be held by systemd, which would
start the service for it: they are looked at and not touched.
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

ANSWER_TIME = 5.0
"""Seconds for the whole of a question and its answer; the daemon needs about a millisecond."""

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes; a line about each of 65,536 connections, which is as many as there can be, fits."""

T = TypeVar("T")


class _Answer(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw()
    error: str | None = None


def ask(path: str, method: str, kind: type[T], **parameters: object) -> T:
    """Ask the daemon behind the control socket at `path`; its answer to `method`.

    Raises:
        NotRunningError: nobody listens there.
        NotAllowedError: the socket may not be connected to.
        CtlError: there is no answer in time, or none that is a `kind`.
    """
    try:
        line = _exchange(path, msgspec.json.encode({"method": method, **parameters}) + b"\n")
        answer = msgspec.json.decode(line, type=_Answer)
        if answer.error is not None:
            raise CtlError(
                f"the daemon behind {path} refuses: {answer.error}"
                + ("; is it of another version?" if "no method" in answer.error else "")
            )
        return msgspec.json.decode(answer.result, type=kind)
    except (TimeoutError, BlockingIOError):  # The latter: it does not even accept.
        raise CtlError(
            f"the daemon behind {path} does not answer within {ANSWER_TIME:.0f} seconds: "
            f"see whether it is stopped or overloaded"
        ) from None
    except OSError as error:
        failure = connect_failure(path, error)
        if isinstance(failure, NotRunningError):
            failure = NotRunningError(_not_running(path))
        raise failure from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CtlError(
            f"the answer from {path} cannot be understood: {error}; "
            f"is the daemon of another version?"
        ) from None


def _exchange(path: str, request: bytes) -> bytes:
    deadline = time.monotonic() + ANSWER_TIME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(ANSWER_TIME)
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
                raise ConnectionResetError("it hung up, since it is stopping or too many ask")
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
        f"the daemon is not running: nobody listens on {control_path}; "
        f"the public socket {public}, the ingest socket {ingest}"
    )


def _presence(path: str) -> str:
    try:
        return "is there" if stat.S_ISSOCK(os.stat(path).st_mode) else "is no socket"
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
