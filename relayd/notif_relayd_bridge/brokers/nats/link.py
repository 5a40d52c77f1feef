# SPDX-License-Identifier: Apache-2.0
"""Connections to servers of NATS, one after another, in a thread with an event loop.

The client's own way to reconnect keeps what is unsent and sends it again, in an order of its own.
Therefore a connection here is never repaired: a new one follows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable

import nats.aio.client
import nats.errors
import nats.js.errors

from notif_relayd.escaping import printable
from notif_relayd_bridge.brokers.address import Server
from notif_relayd_bridge.brokers.backoff import Backoff
from notif_relayd_bridge.brokers.nats.settings import ConnectionSettings

LOG = logging.getLogger(__name__)

MAX_REASON = 200
"""Length at which the text of an error is cut: the server chooses it."""

CLOSE_TIMEOUT = 1.0
"""Seconds to wait for the client to close. It closes at once, because nothing is flushed, except
after a failed TLS handshake."""


class Lost(Exception):  # noqa: N818 (no error by itself)
    """The connection is of no use any more; the message is the reason."""


class Client(nats.aio.client.Client):
    """The client, with what it lacks.

    Args:
        tls: whether to send nothing to a server without TLS. The client uses TLS only if the first
            line of the server, which is not encrypted, requires it.
    """

    def __init__(self, tls: bool) -> None:
        super().__init__()
        self._tls = tls

    def _connect_command(self) -> bytes:
        """Return the command that contains the credentials."""
        offered = self._server_info.get("tls_required") or self.options["tls_handshake_first"]
        if self._tls and not offered:
            raise nats.errors.Error("the server does not offer TLS")
        return super()._connect_command()

    def abort(self) -> None:
        """Close the connection at once. ``close`` waits until the server has read everything."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The tasks of the client. If ``close`` fails, they are still there."""
        own = (self._reading_task, self._ping_interval_task, self._flusher_task)
        subscribed = (each._wait_for_msgs_task for each in self._subs.values())  # noqa: SLF001
        return {task for task in (*own, *subscribed) if task is not None}


class Link:
    """One connection.

    Args:
        settings: what is configured.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self.client = Client(settings.tls)
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Gets the reason when the connection is lost."""
        self.is_open = False
        self._settings = settings

    async def open(self, server: Server, prepare: Callable[[], Awaitable[None]]) -> None:
        """Connect.

        Args:
            server: the server.
            prepare: prepares the connection for its use.

        Raises:
            Lost: one of them is not possible.
        """
        timeout = self._settings.client["connect_timeout"]
        try:
            # The client limits each step, and not their sum.
            await asyncio.wait_for(self._connect(server), 4 * timeout)
            await prepare()
        except Lost:
            raise
        except asyncio.TimeoutError:
            raise Lost(f"no answer within {timeout:g} seconds") from None
        except Exception as error:
            # Of any type: the client does not check the types of what the server sends.
            raise Lost(reason(error)) from error
        self.is_open = True

    async def _connect(self, server: Server) -> None:
        await self.client.connect(
            [f"nats://{server}"],
            allow_reconnect=False,
            error_cb=self._on_error,
            closed_cb=self._on_close,
            **self._settings.client,
        )

    async def close(self) -> None:
        """Disconnect, without waiting for the server."""
        self.is_open = False
        self.client.abort()
        tasks = self.client.tasks
        # Of any type: after a failed attempt, the client lacks a part of what it closes.
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.client.close(), CLOSE_TIMEOUT)
        await _end(tasks)

    def lose(self, why: str) -> None:
        """Note that the connection is of no use any more."""
        if not self.lost.done():
            self.lost.set_result(why)

    async def _on_error(self, error: Exception) -> None:
        if not self.is_open:
            # Raised again by connect(), which would otherwise attempt it for ever.
            raise error
        self.lose(reason(error))

    async def _on_close(self) -> None:
        error = self.client.last_error
        self.lose("the server closed the connection" if error is None else reason(error))


class LinkThread:
    """A thread that uses one connection after another.

    Args:
        settings: what is configured.
        use: uses a connection to a server until it is lost, and raises `Lost`.
        failed: is told why.

    Raises:
        OSError: there is no descriptor for the event loop.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        use: Callable[[Link, Server, Backoff], Awaitable[None]],
        failed: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._use = use
        self._failed = failed
        # Here, because an error, such as a missing descriptor, would only end the thread.
        # Not asyncio.run, which waits for a name to be resolved, however long that takes.
        self._loop = asyncio.new_event_loop()
        self._main = self._loop.create_task(self._connect_repeatedly())
        # A daemon thread, so that an error before close() does not keep the process.
        self._thread = threading.Thread(target=self._run, name="nats", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the thread; without effect if it has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def close(self) -> None:
        """End the thread."""
        self.call(self._main.cancel)
        self._thread.join(2 * CLOSE_TIMEOUT)

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
            # Tasks that the client has left behind.
            self._loop.run_until_complete(_end(asyncio.all_tasks(self._loop)))
        finally:
            self._loop.close()

    async def _connect_repeatedly(self) -> None:
        backoff = Backoff()
        servers = deque(self._settings.address.servers)
        while True:
            server = servers[0]
            servers.rotate(-1)
            try:
                await self._use(Link(self._settings), server, backoff)
            except Lost as lost:
                self._failed(f"{server}: {lost}")
            except Exception:
                # Without this, no connection would be made any more.
                LOG.exception("unhandled exception in the client of NATS, connecting again")
                self._failed("unhandled exception, see the log")
            await asyncio.sleep(backoff.pause())


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """End tasks, and ignore their errors, which asyncio would otherwise log."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def reason(error: BaseException) -> str:
    """Return the text of an error, for an operator."""
    if isinstance(error, nats.js.errors.APIError):
        if isinstance(error, nats.js.errors.ServiceUnavailableError):
            return "JetStream is not available: enable it in the server's configuration"
        return f"JetStream: {shown(str(error.description))}"
    if isinstance(error, asyncio.TimeoutError):  # its text is empty
        return "no answer in time"
    return shown(str(error) or type(error).__name__)


def shown(text: str) -> str:
    """Return a text of the server, shortened and printable."""
    return printable(text[:MAX_REASON])
