# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration.

``make man`` builds the man pages alone, with the tag ``man``. That build does not require the
theme, so that packages can be built without it.
"""

import argparse
import socket
import sys
from pathlib import Path

from cliff import sphinxext
from cliff.command import Command
from sphinx.application import Sphinx

HERE = Path(__file__).parent
# Import the modules of this checkout, not installed ones.
sys.path[:0] = [str(HERE.parent / "handler"), str(HERE.parent / "relayd")]
# Defaults that contain the host name must not contain the name of the build host.
socket.gethostname = lambda: "HOST"

from notif_relay.version import __version__  # noqa: E402
from notif_relayctl.app import Relayctl  # noqa: E402

for_man = "man" in globals().get("tags", ())

project = "notif-relayd"
author = "The notif-relayd authors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

root_doc = "relayctl.1" if for_man else "index"
exclude_patterns = ["build"]
extensions = ["oslo_config.sphinxext"]
if not for_man:
    extensions += [
        "sphinx.ext.autodoc",
        "sphinx.ext.napoleon",
        "sphinx_copybutton",
    ]

man_pages = [
    (f"{name}.{section}" if for_man else f"man/{name}.{section}", name, about, [], section)
    for name, section, about in (
        ("notif-relayd", 8, "OpenStack notification relay"),
        ("notif-relayd-bridge", 8, "send OpenStack notifications of a host to a message broker"),
        ("relayctl", 1, "query and test the OpenStack notification relay"),
        ("notif-relayd.conf", 5, "configuration files of the OpenStack notification relay"),
    )
]

# A literal block without a language is output.
highlight_language = "text"

# Keep the two dashes of an option.
smartquotes = False

# furo loads nothing from other hosts, is readable on a phone and has a search box.
html_theme = "furo"
html_title = f"notif-relayd {release}"
html_static_path = ["_static"]
html_css_files = ["blocks.css"]
html_copy_source = False
html_show_sphinx = False
# Only commands have a button that copies them, not their output.
copybutton_selector = ".highlight-sh pre, .highlight-ini pre, .highlight-python pre"

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
# These pages do not document Python's own names and private names of the library.
nitpick_ignore_regex = [
    (r"py:.*", r"(asyncio|collections|dataclasses|datetime|dt|logging|os|types|typing)\..*"),
    (r"py:.*", r"(bool|bytes|float|int|str|object|None|Exception|ValueError)"),
    (
        r"py:.*",
        r"(Patterns|Payload|OnGap|Iterable|Callable|notif_relay\.(request|stream|subscription)\..*)",
    ),
]


class RelayctlDirective(sphinxext.AutoprogramCliffDirective):
    """cliff's directive, for commands without an entry point; expands defaults and examples."""

    def _load_commands(self) -> dict[str, type[Command]]:
        manager = Relayctl().command_manager
        return {
            name: manager.find_command([name])[0]
            for name, _ in manager
            if name not in ("help", "watch")  # watch is an alias of tail
        }

    def _drop_ignored_options(self, parser: argparse.ArgumentParser, ignored: list[str]) -> None:
        super()._drop_ignored_options(parser, ignored)
        for action in parser._actions:  # noqa: SLF001 - argparse has no public list
            if action.help:
                action.help %= {**vars(action), "prog": parser.prog}
        if parser.epilog and parser.epilog.startswith("Example: "):
            example = parser.epilog.removeprefix("Example: ")
            parser.epilog = f"Example:\n\n.. code-block:: sh\n\n   {example}"


def setup(app: Sphinx) -> None:
    """Register the directive ``relayctl`` and its configuration values."""
    app.add_config_value("autoprogram_cliff_application", "relayctl", "env")
    app.add_config_value("autoprogram_cliff_ignored", ["--help", "-h"], "env")
    app.add_config_value("autoprogram_cliff_app_dist_name", None, "env")
    app.add_directive("relayctl", RelayctlDirective)
