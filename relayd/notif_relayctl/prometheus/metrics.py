# SPDX-License-Identifier: Apache-2.0
"""relayctl metrics: the relay's figures as text that Prometheus reads, once."""

import argparse

from notif_relayctl.command import CtlCommand
from notif_relayctl.errors import CtlError, not_installed
from notif_relayd.escaping import printable


def add_per_connection(parser: argparse.ArgumentParser) -> None:
    """The option that is for those who know what it costs."""
    parser.add_argument(
        "--per-connection",
        action="store_true",
        help="figures of each connection as well, with its id, pid and command: three series a "
        "producer and four a subscriber, and new ones whenever one connects again",
    )


class ShowMetrics(CtlCommand):
    """Print the metrics in the text format of Prometheus.

    relayctl exporter serves the same text over HTTP.
    """

    example = "relayctl metrics --output /var/lib/prometheus/node-exporter/notif-relayd.prom"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """What to print, and where to."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            *("-o", "--output"),
            metavar="FILE",
            help="write them to this file, in one piece, for node_exporter's textfile collector; "
            "where the relay does not run, that it does not",
        )
        add_per_connection(parser)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Ask for them."""
        try:
            from prometheus_client import (  # noqa: PLC0415 - slow to import
                generate_latest,
                write_to_textfile,
            )

            from notif_relayctl.prometheus.exposition import RelayCollector  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise not_installed(error) from None
        collector = RelayCollector(self.app.options.control_path, arguments.per_connection)
        registry = collector.registry()
        if arguments.output is not None:
            try:
                write_to_textfile(arguments.output, registry)
            except OSError as error:
                raise CtlError(f"{arguments.output} cannot be written: {error.strerror}") from None
            text = ""
        else:
            text = generate_latest(registry).decode()
        if collector.problem is not None:
            raise collector.problem
        # Of a relay all of it is printable. Something else may answer in its place.
        self.app.stdout.write("\n".join(map(printable, text.split("\n"))))
