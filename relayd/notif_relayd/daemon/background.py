# SPDX-License-Identifier: Apache-2.0
"""The daemon in the background.

The process in the foreground waits until the daemon is ready or has failed, and exits with the
corresponding status.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from daemon import DaemonContext
from daemon.daemon import DaemonError

from notif_relayd.daemon.pidfile import Pidfile
from notif_relayd.errors import StartError, one_line
from notif_relayd.settings import PROGRAM

READY = b"\0"
"""Message of the daemon to the process in the foreground. Any other message is an error."""


@contextlib.contextmanager
def background(
    pidfile: str | None, before_exit: Callable[[], None]
) -> Iterator[Callable[[], None]]:
    """Continue in a background process; yield a function to call when the daemon is ready.

    The process in the foreground does not leave this function: it exits.

    Args:
        pidfile: holds the process ID inside the context; `None` for no file.
        before_exit: called in the foreground when the daemon is ready.

    Raises:
        StartError: the pidfile cannot be used, or there can be no further process.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(Pidfile(pidfile)) if pidfile else None
        # An interrupt ends a waiting process without the cleanup, which is that of the daemon.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            reader, writer = os.pipe()
            child = os.fork()
        except OSError as error:
            raise StartError(f"cannot go to the background: {error.strerror}") from error
        if child:
            os.close(writer)
            _wait(reader, before_exit)
        os.close(reader)

        def ready() -> None:
            if file is not None:
                file.write()
            _tell(writer, READY)
            os.close(writer)

        try:
            stack.enter_context(_detached())
            yield ready
        except StartError as error:
            # The descriptor stays open until this process ends, after its cleanup.
            _tell(writer, one_line(error).encode(errors="backslashreplace"))
            raise


def _wait(reader: int, before_exit: Callable[[], None]) -> NoReturn:
    """Exit with the daemon's message, without any cleanup."""
    with open(reader, "rb") as pipe:
        message = pipe.read()
    status = 1
    try:
        if message == READY:
            before_exit()
            status = 0
        else:
            error = message.decode() or "the daemon has ended unexpectedly; see its log"
            sys.stderr.write(f"{PROGRAM}: {error}\n")
    finally:
        os._exit(status)


def _tell(writer: int, message: bytes) -> None:
    with contextlib.suppress(OSError):  # The other process was interrupted.
        os.write(writer, message)


@contextlib.contextmanager
def _detached() -> Iterator[None]:
    context = DaemonContext(
        detach_process=True, files_preserve=list(_own_descriptors()), umask=0o022
    )
    try:
        context.open()
    except DaemonError as error:
        raise StartError(f"cannot go to the background: {error}") from error
    with context:
        yield


def _own_descriptors() -> Iterator[int]:
    """Yield the descriptors that this process has opened: sockets, log files, pipe and pidfile.

    Only those that another program has left open are inheritable.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # The list itself had a descriptor.
            if not os.get_inheritable(fd):
                yield fd
