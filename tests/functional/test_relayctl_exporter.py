# SPDX-License-Identifier: Apache-2.0
"""relayctl exporter over HTTP, with a running, a missing and a restarted relay."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from notif_relayctl.prometheus.exposition import RelayCollector
from notif_relayctl.prometheus.scraping import MAX_CONNECTIONS, MAX_REQUEST, listen
from support.bridge_status import REPORT, serve
from support.prometheus import needs_promtool, promtool, samples
from support.records import record
from support.relay import RunningRelay, running_relay
from support.relayctl import RELAYCTL, assert_error, bind_listener, relayctl
from support.waiting import TIMEOUT, wait_until

UP = ("notif_relayd_up",)

ADDRESSES = ["127.0.0.1", "[::1]"]


@dataclass(frozen=True, slots=True)
class Exporter:
    process: subprocess.Popen[str]
    url: str
    log: Path

    def scrape(self, query: str = "") -> str:
        with urllib.request.urlopen(self.url + query, timeout=TIMEOUT) as answer:
            assert answer.status == 200
            return str(answer.read().decode())

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition("/")[0].rpartition(":")
        return host.strip("[]"), int(port)


@contextlib.contextmanager
def exporting(
    directory: Path, *arguments: str, host: str = "127.0.0.1", **environment: str
) -> Iterator[Exporter]:
    log = directory / "exporter.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [
                *(RELAYCTL, "--runtime-dir", os.fspath(directory)),
                *("exporter", "--listen", f"{host}:0", *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            verb, url = process.stdout.readline().split()
            assert verb == "serving"
            yield Exporter(process, url, log)
        finally:
            process.kill()


def ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", [*ADDRESSES, "localhost"])
def test_scrape_equals_relayctl_metrics(relay: RunningRelay, host: str) -> None:
    if "::" in host and not ipv6():
        pytest.skip("this host has no IPv6")
    with exporting(relay.directory, host=host) as exporter, relay.produce() as producer:
        assert exporter.address[0] in ("127.0.0.1", "::1")
        producer.sendall(record() * 2 + b"garbage\n")
        relay.wait_status(records_rejected=1)
        scraped = samples(exporter.scrape())
        printed = samples(relayctl(relay.directory, "metrics").stdout)
    assert scraped.keys() == printed.keys()
    assert scraped[UP] == 1
    for name in ("records_received_total", "bytes_received_total", "producers"):
        key = (f"notif_relayd_{name}",)
        assert scraped[key] == printed[key] > 0


@needs_promtool
def test_promtool_accepts_a_scrape(relay: RunningRelay) -> None:
    with exporting(relay.directory, "--per-connection") as exporter, relay.subscribe():
        assert promtool("check", "metrics", stdin=exporter.scrape()) == ""


def test_openmetrics_and_compression_are_supported(directory: Path) -> None:
    with exporting(directory) as exporter:
        for version in ("", ";version=1.0.0", ";version=x", f";version={'9' * 5000}"):
            for encoding, expected in (("gzip", "gzip"), ("gzip;q=0", None)):
                accepted = f"application/openmetrics-text{version}"
                request = urllib.request.Request(
                    exporter.url, headers={"Accept": accepted, "Accept-Encoding": encoding}
                )
                with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                    assert "openmetrics-text; version=1.0.0" in answer.headers["Content-Type"]
                    assert answer.headers["Content-Encoding"] == expected


def test_names_select_metrics(relay: RunningRelay) -> None:
    with exporting(relay.directory) as exporter:
        assert "notif_relayd_records_received_total" in exporter.scrape("?name[]=&name[]=")
        selected = exporter.scrape("?name[]=&name[]=notif_relayd_up&name%5B%5D=other")
    assert selected.endswith("notif_relayd_up 1.0\n")
    assert len(selected.splitlines()) == 3


def test_missing_relay_is_up_0_and_is_not_started(directory: Path) -> None:
    with (
        bind_listener(directory / "notifications.sock") as public,
        bind_listener(directory / "ingest.sock") as ingest,
        exporting(directory) as exporter,
    ):
        assert samples(exporter.scrape()) == {UP: 0}
        for listener in (public, ingest):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_each_change_of_up_is_logged_once(directory: Path) -> None:
    with exporting(directory) as exporter:
        for _ in range(2):
            assert samples(exporter.scrape())[UP] == 0
        with running_relay(directory) as relay:
            for _ in range(2):
                assert samples(exporter.scrape())[UP] == 1
            assert relay.stop() == 0
        assert samples(exporter.scrape()) == {UP: 0}
        missing, connected, gone = exporter.log.read_text().splitlines()
    assert "the daemon is not running" in missing
    assert connected == "the relay answers"
    assert gone == missing


def test_bridges_are_exported_without_a_relay(directory: Path) -> None:
    (directory / "gone").mkdir()
    bind_listener(directory / "gone" / "status.sock").close()
    with (
        serve(directory, "b", REPORT),
        exporting(directory, "--bridge-dir", os.fspath(directory)) as exporter,
    ):
        found = samples(exporter.scrape())
        log = exporter.log.read_text()
    assert found[UP] == found["notif_relayd_bridge_up", "gone"] == 0
    assert found["notif_relayd_bridge_confirmed_total", "b", "rabbit", "out"] == 7
    assert log.count("\n") == 1
    assert "the daemon is not running" in log
    assert "; bridge gone: no process listens on" in log


def test_refused_connection_is_up_0_and_logged(relay: RunningRelay) -> None:
    with exporting(relay.directory) as exporter:
        relay.control.unlink()
        relay.control.write_text("")
        assert samples(exporter.scrape()) == {UP: 0}
        assert os.fspath(relay.control) in exporter.log.read_text()


def ask(exporter: Exporter, method: str, path: str) -> tuple[int, Message, bytes]:
    """Return status, header fields and body of one answer; the server closes the connection."""
    connection = http.client.HTTPConnection(*exporter.address, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_index_links_the_metrics(directory: Path) -> None:
    with exporting(directory) as exporter:
        status, fields, page = ask(exporter, "GET", "/")
        assert (status, fields["Content-Type"]) == (200, "text/html; charset=utf-8")
        (link,) = re.findall(r'<a href="([^"]*)">/metrics</a>', page.decode())
        scraped = ask(exporter, "GET", urllib.parse.urljoin("/", link))[2].decode()
    assert samples(scraped) == {UP: 0}


def test_methods_and_paths_get_their_status(directory: Path) -> None:
    with exporting(directory) as exporter:
        for path in ("/", "/?x=1", "/metrics", "/metrics?x=1"):
            status, fields, body = ask(exporter, "GET", path)
            assert (status, fields["Content-Length"]) == (200, str(len(body)))
            head = ask(exporter, "HEAD", path)
            assert (head[0], head[2]) == (200, b"")
            for name in ("Content-Type", "Content-Length"):
                assert head[1][name] == fields[name]
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "get"):
                status, fields, body = ask(exporter, method, path)
                assert (status, fields["Allow"]) == (405, "GET, HEAD")
                assert body == b"Use GET or HEAD.\n"
        for path in ("/favicon.ico", "/metrics/", "/metricsx", "/status"):
            for method in ("GET", "POST"):
                status, _, body = ask(exporter, method, path)
                assert (status, body) == (404, b"The metrics are at /metrics.\n")
            assert ask(exporter, "HEAD", path)[::2] == (404, b"")


def test_silent_and_closed_clients_block_no_scrape(relay: RunningRelay) -> None:
    with exporting(relay.directory) as exporter, contextlib.ExitStack() as stack:
        for _ in range(20):
            silent = stack.enter_context(socket.create_connection(exporter.address, TIMEOUT))
            silent.sendall(b"GET /met")
        with socket.create_connection(exporter.address, TIMEOUT) as leaving:
            leaving.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert samples(exporter.scrape())[UP] == 1
    assert "Traceback" not in exporter.log.read_text()


def test_as_many_concurrent_scrapes_as_allowed_are_answered(relay: RunningRelay) -> None:
    found: list[float] = []
    with exporting(relay.directory) as exporter:
        threads = [
            threading.Thread(target=lambda: found.append(samples(exporter.scrape())[UP]))
            for _ in range(MAX_CONNECTIONS)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join(TIMEOUT)
    assert found == [1.0] * MAX_CONNECTIONS


def test_sigterm_ends_it_with_status_0(relay: RunningRelay) -> None:
    with exporting(relay.directory) as exporter:
        exporter.scrape()
        exporter.process.send_signal(signal.SIGTERM)
        assert exporter.process.wait(TIMEOUT) == 0
        assert exporter.log.read_text() == "the relay answers\n"


def test_exporter_notifies_the_service_manager(relay: RunningRelay) -> None:
    path = os.fspath(relay.directory / "manager.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(TIMEOUT)
        with exporting(relay.directory, NOTIFY_SOCKET=path):
            assert manager.recv(4096) == b"READY=1"


@pytest.mark.parametrize(
    ("listen", "error"),
    [
        ("9856", "is not HOST:PORT"),
        (":9856", "is not HOST:PORT"),
        ("[]:9856", "is not HOST:PORT"),
        ("::1:9856", "in brackets"),
        ("localhost", "is not HOST:PORT"),
        ("localhost:http", "is not HOST:PORT"),
        ("localhost:-1", "is not HOST:PORT"),
        ("a..b:9856", "'a..b' is not the name of a host"),
        ("localhost:65536", "at most 65535"),
        ("192.0.2.1:9856", "Cannot assign requested address"),
        ("no.such.host.invalid:9856", "no.such.host.invalid"),
    ],
)
def test_invalid_listen_address_is_a_one_line_error(
    directory: Path, listen: str, error: str
) -> None:
    assert_error(relayctl(directory, "exporter", "--listen", listen), 1, error)


def test_address_in_use_is_a_one_line_error(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = f"127.0.0.1:{server.getsockname()[1]}"
        done = relayctl(directory, "exporter", "--listen", listen)
    assert_error(done, 1, "127.0.0.1", "Address already in use")


def closed(client: socket.socket) -> bool:
    """Return whether the exporter has closed the connection."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_slow_request_is_closed_at_its_deadline(relay: RunningRelay) -> None:
    with (
        exporting(relay.directory) as exporter,
        socket.create_connection(exporter.address, TIMEOUT) as slow,
    ):
        slow.sendall(b"GET /metrics HTTP/1.1\r\nX: ")

        def ends() -> bool:
            with contextlib.suppress(ConnectionError):
                slow.sendall(b"y")
            return closed(slow)

        wait_until(ends, "the exporter has closed the connection")
        assert samples(exporter.scrape())[UP] == 1


def test_oldest_connections_are_closed_at_the_limit(relay: RunningRelay) -> None:
    with exporting(relay.directory) as exporter, contextlib.ExitStack() as stack:
        slow = []
        for _ in range(3 * MAX_CONNECTIONS):
            slow.append(stack.enter_context(socket.create_connection(exporter.address, TIMEOUT)))
            slow[-1].sendall(b"GET /met")
        assert samples(exporter.scrape())[UP] == 1
        wait_until(lambda: all(map(closed, slow[:MAX_CONNECTIONS])), "the oldest are closed")
        assert not closed(slow[-1])
        threads = Path(f"/proc/{exporter.process.pid}/task")
        wait_until(lambda: len(list(threads.iterdir())) <= MAX_CONNECTIONS + 1, "threads end")


GET = b"GET /metrics HTTP/1.1\r\n"


@pytest.mark.parametrize(
    "request_", [b"X" * MAX_REQUEST, GET + b"X" * MAX_REQUEST, GET + b"X: y\r\n" * 200]
)
def test_oversized_request_is_refused(relay: RunningRelay, request_: bytes) -> None:
    with (
        exporting(relay.directory) as exporter,
        socket.create_connection(exporter.address, TIMEOUT) as client,
    ):
        client.sendall(request_)
        with client.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.0 431 ")
        assert samples(exporter.scrape())[UP] == 1
        assert "Traceback" not in exporter.log.read_text()


def test_answer_of_another_version_is_up_0_with_the_reason(
    relay: RunningRelay, tmp_path: Path
) -> None:
    metrics = relay.request("metrics")
    metrics["turn_bounds"].pop()
    answer = json.dumps({"result": metrics}).encode() + b"\n"

    def serve(control: socket.socket) -> None:
        for _ in range(2):
            with control.accept()[0] as client:
                client.recv(4096)
                client.sendall(answer)

    with bind_listener(tmp_path / "control.sock") as control, exporting(tmp_path) as exporter:
        thread = threading.Thread(target=serve, args=(control,))
        thread.start()
        for _ in range(2):
            assert samples(exporter.scrape()) == {UP: 0}
        thread.join(TIMEOUT)
        (line,) = exporter.log.read_text().splitlines()
    assert "is the daemon of another version?" in line


def test_unexpected_error_is_status_500_and_logged_once(tmp_path: Path) -> None:
    class Broken(RelayCollector):
        def collect(self) -> Iterator[Metric]:
            raise RuntimeError("\x1b[31m")

    log = io.StringIO()
    with listen("127.0.0.1", 0, Broken(os.fspath(tmp_path / "none"), False), log) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for _ in range(3):
                with pytest.raises(urllib.error.HTTPError, match="500") as error:
                    urllib.request.urlopen(server.url, timeout=TIMEOUT)
                error.value.close()
        finally:
            server.shutdown()
            thread.join(TIMEOUT)
    assert log.getvalue().count("\n") == 1
    assert "RuntimeError" in log.getvalue()
    assert "\x1b" not in log.getvalue()
