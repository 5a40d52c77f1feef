# SPDX-License-Identifier: Apache-2.0
"""An AMQP connection that never blocks on the network.

py-amqp encodes and decodes methods and keeps the state of channels. Its own reading and writing
block: a write waits until the broker reads, which it does not do while it is short of memory, and
a read waits for the end of a frame. Here, frames are written to a buffer, and the thread waits
for everything at once: input, room for output, the other threads, and the next heartbeat.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import time
from typing import Any

from amqp import method_framing
from kombu.transport import pyamqp

from notif_relayd_bridge.brokers.rabbit.deliveries import Deliveries

_HANDSHAKE_TIMEOUT = 30.0
"""Maximum duration of the handshake in seconds, however many frames the broker sends."""

_CLOSE_TIMEOUT = 1.0
"""Seconds that the broker has for its answer when the connection is closed."""

_MAX_FRAME_SIZE = 1024 * 1024
"""Maximum size of a frame in bytes. RabbitMQ proposes 128 KiB."""

_MAX_CONTENT_SIZE = 8 * 1024 * 1024
"""Maximum size of a message in bytes that the broker returns to the bridge."""

_MAX_CHANNEL = 2
"""Highest number of a channel that the bridge opens."""

_READ_SIZE = 64 * 1024

_HEADER = struct.Struct(">BHI")
"""Type, channel and size at the beginning of a frame."""
_FRAME_END = 0xCE
_METHOD, _BODY = 1, 3
"""Types of frames."""


class ClosingError(Exception):
    """The target is being closed."""


class BrokerError(Exception):
    """The connection is of no use any more; the message states why."""


class Waker:
    """Wakes the thread of the target when another thread has something for it."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.is_closing = False
        self.is_armed = False
        """Whether the thread waits or is about to."""

    def wake(self) -> None:
        """Wake the thread if it waits; call this after the change that it has to see."""
        if self.is_armed:
            self.is_armed = False
            os.eventfd_write(self.descriptor, 1)

    def wake_to_close(self) -> None:
        """Wake the thread, which then ends the connection."""
        self.is_closing = True
        os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        """Note that the thread has been woken."""
        self.is_armed = False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def pause(self, seconds: float) -> None:
        """Wait; return early if the target is being closed."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        while not self.is_closing and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self.clear()

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self.descriptor)


class _Output:
    """Takes the place of the transport and of the connection for py-amqp's writer.

    The writer allocates a buffer of the size that the broker proposes, up to 4 GiB.
    """

    def __init__(self, connection: BrokerConnection) -> None:
        self.data = bytearray()
        self.write = self.data.extend
        self.bytes_sent = 0
        """Number of frames; the writer counts them."""
        self._connection = connection

    @property
    def frame_max(self) -> int:
        """Maximum size of a frame; the broker accepts smaller ones than it proposes."""
        return min(int(self._connection.frame_max), _MAX_FRAME_SIZE)


class BrokerConnection(pyamqp.Connection):  # type: ignore[misc]
    """A connection that is read and written by one thread.

    Args:
        waker: wakes the thread.
        heartbeat_rate: heartbeats to send in the time after which the broker misses them.
        options: as for py-amqp.
    """

    def __init__(self, waker: Waker, heartbeat_rate: int, **options: Any) -> None:
        self.is_blocked = False
        """Whether the broker asks for no more messages for now."""
        self.is_paused = False
        """Whether nothing is read for now."""
        self.deliveries: tuple[int, Deliveries] | None = None
        """Number of the channel of a consumer, and what takes its messages."""
        self._waker = waker
        self._heartbeat_rate = max(heartbeat_rate, 2)
        self._input = bytearray()
        self._output = _Output(self)
        self._content_size = 0
        self._sock: socket.socket | None = None
        self._poll = select.poll()
        self._wants_write = False
        self._is_finishing = False
        self._deadline: float | None = time.monotonic() + _HANDSHAKE_TIMEOUT
        self._received = self._sent = time.monotonic()
        options.update(
            on_blocked=lambda _: self._set_blocked(True),
            on_unblocked=lambda: self._set_blocked(False),
            frame_writer=lambda _, __: method_framing.frame_writer(self._output, self._output),
        )
        super().__init__(**options)

    def connect(self, callback: Any = None) -> None:
        """Connect and wait for the end of the handshake.

        Raises:
            BrokerError, OSError, amqp.AMQPError: the attempt failed.
            ClosingError: the target is being closed.
        """
        try:
            super().connect(callback)
        except BaseException:
            self.collect()
            raise
        self._deadline = None

    @property
    def unsent(self) -> int:
        """Number of bytes that the network has not taken yet."""
        return len(self._output.data)

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Wait for a frame and process it; py-amqp calls this to wait for an answer.

        Raises:
            TimeoutError: there is none within `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (frame := self._next_frame()) is None:
            if not self._receive():
                self.wait_for_event(deadline)
        return self._process(frame)

    def process_input(self) -> None:
        """Process the frames that have arrived, until `is_paused` is set."""
        while not self.is_paused:
            if (frame := self._next_frame()) is not None:
                self._process(frame)
            elif not self._receive():
                return

    def keep_alive(self) -> None:
        """Send what the network takes, and a heartbeat if it is due.

        Raises:
            TimeoutError: the broker has been silent for too long.
        """
        now = time.monotonic()
        if self.is_paused:
            self._received = now  # What the broker has sent is not read.
        self._check_heartbeats(now)
        self.flush()

    def flush(self) -> None:
        """Send what the network takes."""
        self._flush(self._attached())

    def wait_for_event(self, deadline: float | None = None) -> None:
        """Send what the network takes, then wait until something has happened.

        Args:
            deadline: the latest time, on the monotonic clock; None for none.

        Raises:
            TimeoutError: the deadline has passed, or the broker has been silent for too long.
            ClosingError: the target is being closed.
        """
        sock = self._attached()
        now = time.monotonic()
        self._check_heartbeats(now)
        self._flush(sock)
        wants_write = bool(self._output.data) or self._wants_write
        wants_read = not self.is_paused
        self._poll.modify(sock, select.POLLIN * wants_read | (select.POLLOUT if wants_write else 0))
        times = [each for each in (deadline, self._deadline, self._next_heartbeat()) if each]
        timeout = max(min(times) - now, 0) if times else None
        # Rounded up, so that the thread does not wake up just before the time.
        found = self._poll.poll(None if timeout is None else timeout * 1000 + 1)
        self._waker.clear()
        if self._waker.is_closing and not self._is_finishing:
            raise ClosingError
        now = time.monotonic()
        if self.is_paused:
            if any(events & (select.POLLHUP | select.POLLERR) for _, events in found):
                raise BrokerError("the broker has closed the connection")
            self._received = now  # What the broker has sent is not read.
        if any(each is not None and now >= each for each in (deadline, self._deadline)):
            raise TimeoutError("no answer in time")

    def finish(self) -> None:
        """Take leave of the broker, then close the connection."""
        self._is_finishing = True
        self._deadline = time.monotonic() + _CLOSE_TIMEOUT
        self.close()
        self.collect()

    def collect(self) -> None:
        """Close the connection at once."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._flush(self._sock)
            self._sock = None
        with contextlib.suppress(ValueError):  # the end of TLS, on a broken connection
            super().collect()

    def _attached(self) -> socket.socket:
        if self._sock is None:
            if not self.connected:  # py-amqp would connect again
                raise BrokerError("the connection has been closed")
            sock: socket.socket = self.transport.sock
            sock.setblocking(False)
            self._poll.register(sock, select.POLLIN)
            self._poll.register(self._waker.descriptor, select.POLLIN)
            self._sock = sock
        return self._sock

    def _set_blocked(self, is_blocked: bool) -> None:
        self.is_blocked = is_blocked

    def _receive(self) -> bool:
        """Read once; return whether anything has arrived."""
        self._wants_write = False
        try:
            data = self._attached().recv(_READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except ssl.SSLWantWriteError:
            self._wants_write = True
            return False
        if not data:
            raise BrokerError("the broker has closed the connection")
        self._received = time.monotonic()
        self._input += data
        return True

    def _flush(self, sock: socket.socket) -> None:
        data = self._output.data
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while data:
                del data[: sock.send(data)]
                self._sent = time.monotonic()

    def _next_frame(self) -> tuple[int, int, bytes] | None:
        data = self._input
        if len(data) < _HEADER.size:
            return None
        kind, channel, size = _HEADER.unpack_from(data)
        end = _HEADER.size + size
        if size > _MAX_FRAME_SIZE or channel > _MAX_CHANNEL:
            raise BrokerError("the peer does not speak AMQP 0-9-1")
        if len(data) <= end:
            return None
        if data[end] != _FRAME_END:
            raise BrokerError("a frame of the broker has no end")
        payload = bytes(data[_HEADER.size : end])
        del data[: end + 1]
        return kind, channel, payload

    def _process(self, frame: tuple[int, int, bytes]) -> Any:
        kind, channel, payload = frame
        try:
            if (
                self.deliveries is not None
                and channel == self.deliveries[0]
                and self.deliveries[1].take(kind, payload)
            ):
                return None
            self._check_content_size(kind, len(payload))
            return self.on_inbound_frame(frame)
        except (struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BrokerError(f"invalid frame: {error!r}") from error
        except RecursionError as error:
            raise BrokerError("invalid frame: nested too deeply") from error

    def _check_content_size(self, kind: int, size: int) -> None:
        if kind == _METHOD:
            self._content_size = 0
        elif kind == _BODY:
            self._content_size += size
        if self._content_size > _MAX_CONTENT_SIZE:
            raise BrokerError("the broker sends a message that is too large")

    def _check_heartbeats(self, now: float) -> None:
        if not self._is_monitored():
            return
        if now - self._received > 2 * self.heartbeat:
            raise TimeoutError(f"no heartbeat from the broker for {2 * self.heartbeat} s")
        if not self._output.data and now - self._sent >= self.heartbeat / self._heartbeat_rate:
            self.send_heartbeat()

    def _next_heartbeat(self) -> float | None:
        if not self._is_monitored():
            return None
        expected = self._received + 2 * self.heartbeat
        # Output that the network does not take says that the bridge is alive, once it is taken.
        if self._output.data:
            return float(expected)
        return float(min(expected, self._sent + self.heartbeat / self._heartbeat_rate))

    def _is_monitored(self) -> bool:
        """Return whether there are heartbeats; during handshake and close, a deadline applies."""
        return bool(self.heartbeat) and self._deadline is None
