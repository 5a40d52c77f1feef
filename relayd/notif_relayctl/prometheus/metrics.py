# SPDX-License-Identifier: Apache-2.0
"""relayctl metrics: print the metrics of the relay once, as text for Prometheus."""

import argparse
import io

from notif_relayctl.bridges.client import add_bridge_dir
from notif_relayctl.command import CtlCommand, path
from notif_relayctl.errors import CtlError, missing_package
from notif_relayd.escaping import printable
from notif_relayd.files import STANDARD_OUTPUT, write_output


def add_per_connection(parser: argparse.ArgumentParser) -> None:
    """Add the option for metrics of each connection and group."""
    parser.add_argument(
        "--per-connection",
        action="store_true",
        help="add metrics of each connection, labelled with its id, pid and command: three series "
        "for a producer and four for a subscriber, and new series after each reconnect; and five "
        "series for each group, labelled with its name and the uid of its user",
    )


class ShowMetrics(CtlCommand):
    """Print the metrics in the text format of Prometheus.

    relayctl exporter serves the same text over HTTP.
    """

    example = "relayctl metrics --output /var/lib/prometheus/node-exporter/notif-relayd.prom"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options for the output."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            *("-o", "--output"),
            type=path,
            metavar="FILE",
            help="replace this file atomically, for the textfile collector of node_exporter; if "
            "the relay is not running, the file contains notif_relayd_up 0 only. A device or FIFO "
            "is written to; - stands for standard output",
        )
        add_per_connection(parser)
        add_bridge_dir(parser)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Query the relay, and write or print the metrics."""
        try:
            from prometheus_client import generate_latest  # noqa: PLC0415 - slow to import

            from notif_relayctl.prometheus.bridges import BridgeCollector  # noqa: PLC0415
            from notif_relayctl.prometheus.exposition import RelayCollector  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise missing_package(error) from None
        collector = RelayCollector(
            self.control_path, arguments.per_connection, BridgeCollector(arguments.bridge_dir)
        )
        text = generate_latest(collector.registry())
        if arguments.output not in (None, STANDARD_OUTPUT):
            try:
                write_output(arguments.output, text)
            except OSError as error:
                raise CtlError(f"cannot write {arguments.output}: {error.strerror}") from None
            text = b""
        if collector.problem is not None:
            raise collector.problem
        # The metrics of a relay are printable, but another program may have answered.
        if isinstance(self.app.stdout, io.TextIOWrapper):
            self.app.stdout.reconfigure(encoding="utf-8")  # in any locale
        self.app.stdout.write("\n".join(map(printable, text.decode().split("\n"))))
