# SPDX-License-Identifier: Apache-2.0
"""The process of a bridge, from the command line to the exit status."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from notif_relayd.errors import one_line
from notif_relayd.systemd.sdnotify import NotifySocket
from notif_relayd_bridge.configuration import PROGRAM, Settings, load
from notif_relayd_bridge.errors import BridgeError
from notif_relayd_bridge.logs import set_up_logging
from notif_relayd_bridge.outbound.bridge import Bridge
from notif_relayd_bridge.redaction import Redaction
from notif_relayd_bridge.spool.spool import Spool
from notif_relayd_bridge.status import answering

LOG = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run a bridge until a signal stops it; return the exit status."""
    hide = Redaction("")
    try:
        settings = load(arguments)
        hide = Redaction(settings.target, settings.secrets())
        if settings.check:
            settings.scheme.create(settings.target, settings.conf)
            sys.stdout.write("ok\n")
            return 0
        set_up_logging(settings.conf, PROGRAM, hide)
        error = _run(settings)
    except BridgeError as failure:
        error = str(failure)
    except Exception:
        LOG.exception("unhandled exception, exiting")
        return 1
    if error:
        sys.stderr.write(f"{PROGRAM}: {hide(one_line(BridgeError(error)))}\n")
    return 1 if error else 0


def _run(settings: Settings) -> str:
    target = settings.scheme.create(settings.target, settings.conf)
    options = settings.spool
    with (
        contextlib.closing(Spool(options.path, options.max_bytes, options.max_age)) as spool,
        contextlib.closing(NotifySocket(os.environ.get("NOTIFY_SOCKET"))) as notify,
    ):
        bridge = Bridge(settings.subscription, target, spool, once=settings.once)
        broker = settings.scheme.extra
        with (
            _signals(bridge) as received,
            answering(settings.status_socket, bridge, settings.name, "out", broker),
        ):
            LOG.info(
                "bridge %s: sending notifications from %s, group %s, to a broker (%s)",
                settings.name,
                settings.subscription.path,
                settings.subscription.group,
                broker,
            )
            notify.send("READY=1")
            error = bridge.run()
            notify.send("STOPPING=1")
            LOG.info("stopped: %s", bridge.pipeline.counters)
            return error or ("stopped by SIGHUP" if signal.SIGHUP in received else "")


@contextlib.contextmanager
def _signals(bridge: Bridge) -> Iterator[list[int]]:
    """Let SIGTERM, SIGINT and SIGHUP stop the bridge; yield the signals that it receives.

    A signal that is ignored, as SIGHUP by nohup, stays so. An exit with status 0 because of SIGHUP
    would let service managers take a bridge as stopped on purpose.
    """
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        bridge.stop()

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {each: signal.getsignal(each) for each in signals}
    for each, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(each, stop)
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
