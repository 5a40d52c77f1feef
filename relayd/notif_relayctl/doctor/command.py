# SPDX-License-Identifier: Apache-2.0
"""relayctl doctor as a command: what to examine, the rows that come of it, and the exit status."""

import argparse
import logging

from cliff.lister import Lister

from notif_relayctl.access import RIGHTS
from notif_relayctl.command import CtlCommand
from notif_relayctl.doctor.finding import FAILED, Finding
from notif_relayd.escaping import printable


class Doctor(CtlCommand, Lister):
    """Check the relay and its set-up, and suggest remedies.

    Each check is one row. The last checks send notifications through the relay, which other
    subscribers receive as well; if systemd holds the sockets, this starts the relay. The exit
    status is 1 if a check failed, and otherwise 0, even if there are warnings.
    """

    example = "relayctl doctor --user nova --needs produce --service-config /etc/nova/nova.conf"

    _failed = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """What to look at."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--user",
            action="append",
            metavar="USER",
            help="whose rights to check, by name or number; may be repeated (default: you)",
        )
        parser.add_argument(
            "--needs",
            action="append",
            default=[],
            choices=RIGHTS,
            help="a right without which the check of a user has failed; may be repeated (default: "
            "any of them)",
        )
        parser.add_argument(
            "--service-config",
            action="append",
            nargs="+",
            default=[],
            metavar="FILE",
            help="the configuration files and directories of a service that should send to this "
            "relay; may be repeated for other services",
        )
        parser.add_argument(
            "--relayd-config",
            metavar="FILE",
            help="the relay's own configuration, where it is not the usual one",
        )
        parser.add_argument(
            "--no-round-trip",
            action="store_true",
            help="send nothing, and connect to no socket that may start the relay",
        )
        return parser

    def take_action(
        self, arguments: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Check one after the other."""
        from notif_relayctl.doctor.visit import visit  # noqa: PLC0415 - slow to import

        # oslo.config logs every deprecated option of the services' files, which are not checked.
        logging.getLogger("oslo_config").addHandler(logging.NullHandler())
        options = self.app.options
        findings = list(
            visit(
                options.runtime_dir,
                options.control_path,
                arguments.relayd_config,
                users=arguments.user or [None],
                needs=arguments.needs,
                services=arguments.service_config,
                round_trips=not arguments.no_round_trip,
            )
        )
        self._failed = any(each.result == FAILED for each in findings)
        # Paths and what files hold may be anything.
        return Finding._fields, [tuple(map(printable, each)) for each in findings]

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Check, print, and tell by the exit status whether anything has failed."""
        return super().run(parsed_args) or int(self._failed)
