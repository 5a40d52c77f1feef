# SPDX-License-Identifier: Apache-2.0
"""relayctl exporter: serve metrics over HTTP, so that the relay itself needs no network."""

import argparse
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from notif_relayctl.bridges.client import add_bridge_dir
from notif_relayctl.command import DIGITS, CtlCommand
from notif_relayctl.errors import CtlError, missing_package
from notif_relayctl.prometheus.metrics import add_per_connection
from notif_relayd.systemd.sdnotify import SEND_TIMEOUT, NotifySocket

DEFAULT_LISTEN = "127.0.0.1:9856"

CHECK_INTERVAL = 3600.0
"""Seconds between two checks for a shutdown request. A signal takes effect at once."""

MAX_PORT = 65535


class Exporter(CtlCommand):
    """Serve the metrics of the relay to Prometheus over HTTP.

    The path is /metrics; the page at / links it. While the relay is not running, notif_relayd_up
    is 0 and no other metric is present. A request does not start the relay.
    """

    example = "relayctl exporter --listen [::1]:9856"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options for the address and the metrics."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--listen",
            type=address,
            default=DEFAULT_LISTEN,
            metavar="HOST:PORT",
            help="address to listen on; write an IPv6 address in brackets (default: %(default)s)",
        )
        add_per_connection(parser)
        add_bridge_dir(parser)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Serve until a signal arrives."""
        try:
            from notif_relayctl.prometheus.bridges import BridgeCollector  # noqa: PLC0415
            from notif_relayctl.prometheus.exposition import RelayCollector  # noqa: PLC0415 - slow to import
            from notif_relayctl.prometheus.scraping import listen  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise missing_package(error) from None
        collector = RelayCollector(
            self.control_path, arguments.per_connection, BridgeCollector(arguments.bridge_dir)
        )
        host, port = arguments.listen
        try:
            server = listen(host, port, collector, self.app.stderr)
        except UnicodeError:
            raise CtlError(f"--listen: {host!r} is not the name of a host") from None
        except OSError as error:
            raise CtlError(f"--listen: {host} port {port}: {error.strerror or error}") from None
        signal.signal(signal.SIGTERM, _end)
        with server:
            self.app.stdout.write(f"serving {server.url}\n")
            self.app.stdout.flush()
            NotifySocket(os.environ.get("NOTIFY_SOCKET")).send("READY=1", timeout=SEND_TIMEOUT)
            server.serve_forever(CHECK_INTERVAL)


def address(text: str) -> tuple[str, int]:
    """Convert an argument to a host, by name or address, and a port."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host.strip("[]") or (":" in host and not bracketed) or not DIGITS.fullmatch(port):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST:PORT; write an IPv6 address in brackets"
        )
    if int(port) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r}: the port must be at most {MAX_PORT}")
    return host[1:-1] if bracketed else host, int(port)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)
