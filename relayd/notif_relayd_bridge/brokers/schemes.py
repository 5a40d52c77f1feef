# SPDX-License-Identifier: Apache-2.0
"""Finds the module of a target or source by the scheme of its URL.

The client of a broker is imported only if the bridge uses it. Each is an extra of the distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from notif_relayd.requirements import not_installed
from notif_relayd_bridge.brokers.source import CreateSource, Selection, Source, SourceOptions
from notif_relayd_bridge.brokers.target import Create, Options, Target
from notif_relayd_bridge.errors import StartError

if TYPE_CHECKING:
    from oslo_config import cfg


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the targets and sources of one URL scheme are created."""

    module: str
    """Name of the module."""
    extra: str
    """Extra of the distribution that installs the client."""
    clients: tuple[str, ...]
    """Import names of the packages that the extra installs."""

    def options(self) -> list[tuple[str, list[cfg.Opt]]]:
        """Return the sections and options of the target."""
        return cast(Options, self._load("options"))()

    def create(self, url: str, conf: cfg.ConfigOpts) -> Target:
        """Return a target.

        Raises:
            StartError: the URL or an option is invalid, or the client is not installed.
        """
        try:
            return cast(Create, self._load("create"))(url, conf)
        except ModuleNotFoundError as error:
            raise self._not_installed(error) from error

    def source_options(self) -> list[tuple[str, list[cfg.Opt]]]:
        """Return the sections and options of the source."""
        return cast(SourceOptions, self._load("source_options"))()

    def create_source(self, url: str, conf: cfg.ConfigOpts, selection: Selection) -> Source:
        """Return a source.

        Raises:
            StartError: the URL, an option or the selection is invalid, or the client is not
                installed.
        """
        try:
            return cast(CreateSource, self._load("create_source"))(url, conf, selection)
        except ModuleNotFoundError as error:
            raise self._not_installed(error) from error

    def _load(self, function: str) -> object:
        try:
            return getattr(import_module(self.module), function)
        except ModuleNotFoundError as error:
            raise self._not_installed(error) from error

    def _not_installed(self, error: ModuleNotFoundError) -> Exception:
        if (error.name or "").partition(".")[0] not in self.clients:
            return error
        return StartError(not_installed(error, self.extra))


SCHEMES = {
    "rabbit": Scheme(f"{__package__}.rabbit", "rabbit", ("oslo_messaging",)),
    "kafka": Scheme(f"{__package__}.kafka", "kafka", ("confluent_kafka",)),
    "nats": Scheme(f"{__package__}.nats", "nats", ("nats",)),
}
"""The targets and sources by the scheme of their URL."""
