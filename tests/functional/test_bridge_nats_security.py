# SPDX-License-Identifier: Apache-2.0
"""Tests of the target NATS: credentials, TLS, hostile servers, idling, and a missing client."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import nkeys
import pytest

from support.bridge_targets import SimplePipeline, create_target, event
from support.nats_server import NatsServer, needs_nats
from support.threads import voluntary_switches
from support.waiting import TIMEOUT, wait_until

pytestmark = [needs_nats, pytest.mark.usefixtures("no_socket_left")]

PASSWORD = "hard/to:guess@1"
QUOTED = "hard%2Fto:guess%401"

USERS = f"""authorization {{ users = [{{ user: "bridge", password: "{PASSWORD}" }}] }}"""


def test_password_of_the_url_is_used(tmp_path: Path) -> None:
    with NatsServer(tmp_path, configuration=USERS, login=f"bridge:{QUOTED}@") as server:
        target = create_target(server.url, tmp_path, stream="events", create_stream=True)
        with SimplePipeline(target) as bridge:
            bridge.send([event(1)])
            bridge.wait_answers(1)


def test_wrong_password_is_a_failure_without_the_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with NatsServer(tmp_path, configuration=USERS) as server:
        url = server.url.replace("//", f"//bridge:{QUOTED}-wrong@")
        with SimplePipeline(create_target(url, tmp_path)) as bridge:
            bridge.wait_failure("Authorization Violation")
    written = "".join([*bridge.failures, caplog.text, *capfd.readouterr(), repr(bridge.target)])
    assert "guess" not in written
    assert bridge.connections == 0


@pytest.mark.parametrize("place", ["url", "option"])
def test_token_is_used(tmp_path: Path, place: str) -> None:
    configuration = 'authorization { token: "secret" }'
    with NatsServer(tmp_path, configuration=configuration) as server:
        url = server.url.replace("//", "//secret@") if place == "url" else server.url
        options = {} if place == "url" else {"token": "secret"}
        with SimplePipeline(create_target(url, tmp_path, **options)) as bridge:
            bridge.wait_connected()


def test_nkey_is_used(tmp_path: Path) -> None:
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    (tmp_path / "seed").write_bytes(seed)
    configuration = f'authorization {{ users = [{{ nkey: "{public}" }}] }}'
    with (
        NatsServer(tmp_path, configuration=configuration) as server,
        SimplePipeline(create_target(server.url, tmp_path, nkeys_seed=tmp_path / "seed")) as bridge,
    ):
        bridge.wait_connected()


def test_removed_seed_is_a_failure(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.touch()
    with NatsServer(tmp_path) as server:
        target = create_target(server.url, tmp_path, nkeys_seed=seed)
        seed.unlink()
        with SimplePipeline(target) as bridge:
            bridge.wait_failure(str(seed))


def test_permission_denied_is_a_failure(tmp_path: Path) -> None:
    configuration = """authorization { users = [
        { user: "bridge", password: "x", permissions: { publish: "other.>" } } ] }"""
    with (
        NatsServer(tmp_path, configuration=configuration, login="bridge:x@") as server,
        SimplePipeline(create_target(server.url, tmp_path)) as bridge,
    ):
        bridge.send([event(1)])
        bridge.wait_failure("permissions violation")
    assert bridge.answers == []


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Return a server with TLS; the certificate is in ``cert.pem``."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(
        command.split(),
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=TIMEOUT,
    )
    configuration = (
        f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}\n{USERS}'
    )
    with NatsServer(tmp_path, configuration=configuration, login=f"bridge:{QUOTED}@") as server:
        yield server


def test_trusted_server_with_tls_is_used(tls_server: NatsServer, tmp_path: Path) -> None:
    options = {"tls_ca_file": tmp_path / "cert.pem", "stream": "events", "create_stream": True}
    with SimplePipeline(create_target(tls_server.url, tmp_path, **options)) as bridge:
        bridge.send([event(1)])
        bridge.wait_answers(1)


def test_untrusted_server_with_tls_is_a_failure(tls_server: NatsServer, tmp_path: Path) -> None:
    with SimplePipeline(create_target(tls_server.url, tmp_path)) as bridge:
        bridge.wait_failure("certificate verify failed")
    assert bridge.connections == 0


class FakeServer:
    """Accepts connections, writes a text, and keeps what it receives.

    Args:
        text: what is written to each connection.
        reply: what is written when the client publishes; ``INBOX`` stands for the reply subject.
    """

    def __init__(self, text: bytes, reply: bytes = b"") -> None:
        self.received = b""
        self._text = text
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://bridge:{QUOTED}@127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(TIMEOUT)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(TIMEOUT)
                try:
                    self._talk(connection)
                except OSError:
                    continue

    def _talk(self, connection: socket.socket) -> None:
        connection.sendall(self._text)
        data = b""
        while received := connection.recv(65536):
            self.received += received
            data += received
            if b"PING\r\n" in data:
                connection.sendall(b"PONG\r\n")
                data = data.replace(b"PING\r\n", b"")
            if published := re.search(rb"PUB \S+ (\S+) .*\r\n", data):
                connection.sendall(self._reply.replace(b"INBOX", published[1]))
                data = b""


INFO = b'INFO {"headers": true, "max_payload": 1000000, "auth_required": true}\r\n'


def test_no_password_is_sent_to_a_server_without_tls(tmp_path: Path) -> None:
    with FakeServer(INFO) as server:
        with SimplePipeline(create_target(server.url, tmp_path, tls=True)) as bridge:
            bridge.wait_failure("the server does not offer TLS")
        assert b"CONNECT" not in server.received
        with SimplePipeline(create_target(server.url, tmp_path)) as bridge:
            bridge.wait_connected()
        assert b"guess" in server.received


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"INFO {\r\n",
        b"INFO []\r\n",
        b"INFO \xff\xfe\r\n",
        b"INFO " + b"[" * 20_000 + b"\r\n",
        b'INFO {"max_payload": "x", "connect_urls": 7}\r\n',
        b'INFO {"tls_required": true}\r\n',
        b"x" * 1_000_000,
        b"-ERR '\x1b[31m" + b"y" * 5000 + b"'\r\n",
    ],
    ids=range(10),
)
def test_hostile_greeting_is_a_failure(tmp_path: Path, text: bytes) -> None:
    with (
        FakeServer(text) as server,
        SimplePipeline(create_target(server.url, tmp_path, connect_timeout=0.2)) as bridge,
    ):
        wait_until(lambda: len(bridge.failures) > 1, "two failures")
    assert bridge.connections == 0
    assert all(reason.isprintable() and len(reason) < 2000 for reason in bridge.failures)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 50_000,
        b"{" + b" " * 100_000,
        b'{"stream": "events"}',
        b'{"stream": 1, "seq": 1}',
        b'{"error": {}}',
        b'{"error": {"err_code": {}, "description": ["\\u001b[31m"]}}',
    ],
    ids=range(10),
)
def test_hostile_answer_is_a_failure(tmp_path: Path, payload: bytes) -> None:
    reply = b"MSG INBOX 1 %d\r\n%b\r\n" % (len(payload), payload)
    with (
        FakeServer(INFO, reply) as server,
        SimplePipeline(create_target(server.url, tmp_path)) as bridge,
    ):
        bridge.send([event(1)])
        bridge.wait_failure("")
    assert bridge.answers == []
    assert all(reason.isprintable() and len(reason) < 300 for reason in bridge.failures)


def test_answers_to_unknown_messages_are_ignored(tmp_path: Path) -> None:
    reply = b"".join(
        b'MSG INBOX%b 1 25\r\n{"stream": "x", "seq": 1}\r\n' % suffix
        for suffix in (b"9", b"x", b"9" * 1000, "²".encode(), b"")
    )
    with (
        FakeServer(INFO, reply) as server,
        SimplePipeline(create_target(server.url, tmp_path)) as bridge,
    ):
        bridge.send([event(1)])
        bridge.wait_answers(1)
    assert bridge.failures == []


def test_idle_target_does_not_wake_up(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        server.add_stream()
        with SimplePipeline(create_target(server.url, tmp_path)) as idle:
            idle.send([event(1)])
            idle.wait_answers(1)
            with SimplePipeline(create_target(server.url, tmp_path)) as busy:
                busy.send([event(2)])
                busy.wait_answers(1)
                before = voluntary_switches(idle.thread)
                for count in range(2, 100):
                    busy.send([event(count + 1)])
                    busy.wait_answers(count)
                assert voluntary_switches(idle.thread) == before
