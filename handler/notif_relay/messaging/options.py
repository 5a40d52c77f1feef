# SPDX-License-Identifier: Apache-2.0
"""The options of ``driver = unix``, and the one path that they come to.

They are registered when a driver is made, and not on import: oslo.config's generator comes by
them through ``list_opts``. All that can be seen to be wrong with a path is told here, naming the
option: where a socket is connected to, any failure might pass for a relay that is not there yet.
"""

import os

from oslo_config import cfg

from notif_relay import paths
from notif_relay.connection import checked_path

GROUP = "oslo_messaging_notifications"


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """All options, by group, for ``oslo-config-generator --namespace notif_relay``."""
    return [(GROUP, _options())]


def ingest_path(conf: cfg.ConfigOpts) -> str:
    """The private socket that ``conf`` names.

    Raises:
        ValueError: an option is missing, or names what cannot be a socket; the message says which.
    """
    conf.register_opts(_options(), group=GROUP)
    options = conf[GROUP]
    if not options.sock_path:
        raise ValueError(
            f"[{GROUP}] sock_path is not set, which driver = unix needs: it names the public"
            f" socket of notif-relayd, usually {paths.DEFAULT_PUBLIC_PATH}"
        )
    public = _checked("sock_path", options.sock_path)
    if options.ingest_path:
        return _checked("ingest_path", options.ingest_path)
    return _checked("sock_path", os.path.join(os.path.dirname(public), paths.INGEST_SOCKET))


def _checked(option: str, path: str) -> str:
    if not os.path.isabs(path):
        raise ValueError(f"[{GROUP}] {option} must be an absolute path, not {path!r}")
    if os.path.isdir(path):
        raise ValueError(f"[{GROUP}] {option} must name a socket: {path} is a directory")
    try:
        return checked_path(path)
    except ValueError as error:
        raise ValueError(f"[{GROUP}] {option}: {error}") from None


def _options() -> list[cfg.Opt]:
    return [
        cfg.StrOpt(
            "sock_path",
            metavar="PATH",
            sample_default=paths.DEFAULT_PUBLIC_PATH,
            help="The public socket of notif-relayd. Required with driver = unix, which sends to"
            f" the private socket beside it, {paths.INGEST_SOCKET}.",
        ),
        cfg.StrOpt(
            "ingest_path",
            metavar="PATH",
            sample_default=paths.DEFAULT_INGEST_PATH,
            help="The private socket of notif-relayd, where it is not beside the public one. The"
            " user of the service must be allowed to write to it: by default, a member of the"
            " group notif-producers.",
        ),
    ]
