# SPDX-License-Identifier: Apache-2.0
"""The options of ``driver = unix``.

A driver registers them when it is created, not at import; oslo.config's generator obtains them
from ``list_opts``. All errors in a path that can be detected are reported here, with the name of
the option, because a failure to connect looks like a relay that is not running yet.
"""

import os

from oslo_config import cfg

from notif_relay import paths
from notif_relay.connection import checked_path
from notif_relay.escaping import shown

GROUP = "oslo_messaging_notifications"


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return all options by group, for ``oslo-config-generator --namespace notif_relay``."""
    return [(GROUP, _options())]


def ingest_path(conf: cfg.ConfigOpts) -> str:
    """Return the path of the private socket that ``conf`` specifies.

    Raises:
        ValueError: an option is missing, or its value cannot be the path of a socket; the message
            names the option.
    """
    conf.register_opts(_options(), group=GROUP)
    options = conf[GROUP]
    if not options.sock_path:
        raise ValueError(
            f"[{GROUP}] sock_path is not set, but driver = unix requires it: set it to the public"
            f" socket of notif-relayd, usually {paths.DEFAULT_PUBLIC_PATH}"
        )
    public = _checked("sock_path", options.sock_path)
    if options.ingest_path:
        return _checked("ingest_path", options.ingest_path)
    return _checked("sock_path", os.path.join(os.path.dirname(public), paths.INGEST_SOCKET))


def _checked(option: str, path: str) -> str:
    if not os.path.isabs(path):
        raise ValueError(f"[{GROUP}] {option} must be an absolute path, not {shown(path)}")
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
            help="Path of the public socket of notif-relayd. Required with driver = unix, which"
            f" sends to the private socket {paths.INGEST_SOCKET} in the same directory.",
        ),
        cfg.StrOpt(
            "ingest_path",
            metavar="PATH",
            sample_default=paths.DEFAULT_INGEST_PATH,
            help="Path of the private socket of notif-relayd, if it is not in the directory of the"
            " public socket. The user of the service needs permission to write to it, which by"
            " default the members of the group notif-producers have.",
        ),
    ]
