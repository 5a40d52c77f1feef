# SPDX-License-Identifier: Apache-2.0
"""The command relayctl doctor: its options, its rows and its exit status."""

import argparse
import logging
from collections import Counter

from cliff.lister import Lister

from notif_relayctl.access import RIGHTS
from notif_relayctl.bridges.client import add_bridge_dir
from notif_relayctl.columns import Text
from notif_relayctl.command import CtlCommand, path
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding

CONFIG_DIRECTORY = "/etc/notif-relayd/bridge"
"""Directory of the configurations of the bridges."""


class Doctor(CtlCommand, Lister):
    """Check the relay and its set-up, and suggest remedies.

    Each check is one row; a table ends with a summary. A service sends by its notify drivers, and
    reads by a URL unix:// in its configuration. The last check sends notifications through the
    relay, which other subscribers receive as well; if systemd holds the sockets, this starts the
    relay. Bridges that have a configuration are checked as well. The exit status is 1 if a check
    failed. Warnings do not change it.
    """

    example = "relayctl doctor --user nova --needs produce --service-config /etc/nova/nova.conf"
    columns = Finding._fields

    _results: Counter[str]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options that select the checks."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--user",
            action="append",
            type=user,
            metavar="USER",
            help="check the permissions of this user, by name or number; may be repeated (default: "
            "the user who runs the command)",
        )
        parser.add_argument(
            "--needs",
            action="append",
            default=[],
            choices=RIGHTS,
            help="a permission that each user must have; may be repeated (default: each user must "
            "have at least one)",
        )
        parser.add_argument(
            "--service-config",
            action="append",
            nargs="+",
            default=[],
            metavar="FILE",
            help="configuration files and directories of a service that should send to this relay "
            "or read from it; may be repeated for other services",
        )
        parser.add_argument(
            "--relayd-config",
            type=path,
            metavar="FILE",
            help="the configuration of the relay, if it is not the default file",
        )
        parser.add_argument(
            "--bridge-config-dir",
            type=path,
            default=CONFIG_DIRECTORY,
            metavar="DIR",
            help="directory with the configurations of the bridges (default: %(default)s)",
        )
        add_bridge_dir(parser)
        parser.add_argument(
            "--no-round-trip",
            action="store_true",
            help="send no notifications, and connect to no socket that may start the relay",
        )
        parser.add_argument(
            "--failed",
            action="store_true",
            help="print only the checks that failed",
        )
        return parser

    def take_action(
        self, arguments: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[Text, ...]]]:
        """Run all checks and return one row for each finding."""
        from notif_relayctl.doctor.bridges import Places  # noqa: PLC0415 - slow to import
        from notif_relayctl.doctor.checks import run_checks  # noqa: PLC0415
        from notif_relayctl.doctor.host import find_relay  # noqa: PLC0415

        # oslo.config logs each deprecated option in the services' files; these are not checked.
        logging.getLogger("oslo_config").addHandler(logging.NullHandler())
        options = self.app.options
        findings = list(
            run_checks(
                find_relay(options.runtime_dir, self.control_path, arguments.relayd_config),
                users=arguments.user or [None],
                needs=arguments.needs,
                services=arguments.service_config,
                places=Places(arguments.bridge_config_dir, arguments.bridge_dir),
                round_trips=not arguments.no_round_trip,
            )
        )
        self._results = Counter(each.result for each in findings)
        if arguments.failed:
            findings = [each for each in findings if each.result == FAILED]
        # Paths and the contents of files can be long, and contain control characters.
        return self.columns, [tuple(map(Text, each.shortened())) for each in findings]

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run all checks, print the findings, and return 1 if one of them is a failure."""
        status = super().run(parsed_args)
        if parsed_args.formatter == "table":  # The other formats are for programs.
            self.app.stdout.write(f"{_summary(self._results)}\n")
        return status or int(self._results[FAILED] > 0)


def user(text: str) -> str:
    """Return an argument that names a user. An empty one would select the current user."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def _summary(results: Counter[str]) -> str:
    """Return the number of checks with each result."""
    parts = [f"{results[each]} {each}" for each in (OK, FAILED, SKIPPED)]
    if warnings := results[WARNING]:
        parts.append(f"{warnings} warning{'s' if warnings > 1 else ''}")
    return ", ".join(parts)
