# SPDX-License-Identifier: Apache-2.0
"""The process of a bridge, from the command line to the exit status."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from notif_relayd.errors import StartError as FileError
from notif_relayd.errors import one_line
from notif_relayd.systemd.sdnotify import NotifySocket
from notif_relayd_bridge.brokers.source import Source
from notif_relayd_bridge.brokers.target import Target
from notif_relayd_bridge.configuration import (
    PROGRAM,
    STATE_DIRECTORY,
    Inbound,
    Outbound,
    Settings,
    load,
)
from notif_relayd_bridge.errors import BridgeError
from notif_relayd_bridge.inbound.bridge import Bridge as InboundBridge
from notif_relayd_bridge.logs import check_logging, set_up_logging
from notif_relayd_bridge.outbound.bridge import Bridge as OutboundBridge
from notif_relayd_bridge.redaction import Redaction
from notif_relayd_bridge.spool.file import check_path as check_spool
from notif_relayd_bridge.spool.spool import Spool
from notif_relayd_bridge.status import answering
from notif_relayd_bridge.status import check_path as check_status_socket

LOG = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run a bridge until a signal stops it; return the exit status."""
    hide = Redaction("")
    try:
        settings = load(arguments)
        hide = Redaction(settings.url, settings.secrets())
        if settings.check:
            _create_broker(settings)
            check_logging(settings.conf, PROGRAM)
            _check_files(settings)
            sys.stdout.write("ok\n")
            return 0
        set_up_logging(settings.conf, PROGRAM, hide)
        error = _run(settings)
    except (BridgeError, FileError) as failure:
        error = str(failure)
    except Exception:
        LOG.exception("unhandled exception, exiting")
        return 1
    if error:
        sys.stderr.write(f"{PROGRAM}: {hide(one_line(BridgeError(error)))}\n")
    return 1 if error else 0


def _create_broker(settings: Settings) -> Target | Source:
    if isinstance(settings.direction, Outbound):
        return settings.scheme.create(settings.url, settings.conf)
    return _create_source(settings, settings.direction)


def _check_files(settings: Settings) -> None:
    if isinstance(settings.direction, Outbound):
        # systemd creates the default directory when it starts the first bridge.
        check_spool(settings.direction.spool.path, f"{STATE_DIRECTORY}/")
    if settings.status_socket is not None:
        check_status_socket(settings.status_socket)


def _create_source(settings: Settings, inbound: Inbound) -> Source:
    return settings.scheme.create_source(settings.url, settings.conf, inbound.selection)


def _run(settings: Settings) -> str:
    if isinstance(settings.direction, Outbound):
        return _run_outbound(settings, settings.direction)
    return _run_inbound(settings, settings.direction)


def _run_outbound(settings: Settings, outbound: Outbound) -> str:
    target = settings.scheme.create(settings.url, settings.conf)
    options = outbound.spool
    with contextlib.closing(Spool(options.path, options.max_bytes, options.max_age)) as spool:
        bridge = OutboundBridge(outbound.subscription, target, spool, once=settings.once)
        LOG.info(
            "bridge %s: sending notifications from %s, group %s, to a broker (%s)",
            settings.name,
            outbound.subscription.path,
            outbound.subscription.group,
            settings.scheme.extra,
        )
        return _run_bridge(settings, bridge)


def _run_inbound(settings: Settings, inbound: Inbound) -> str:
    bridge = InboundBridge(
        settings.name,
        inbound.path,
        inbound.max_record_size,
        _create_source(settings, inbound),
        once=settings.once,
    )
    LOG.info(
        "bridge %s: writing notifications from a broker (%s), pool %s, to %s",
        settings.name,
        settings.scheme.extra,
        inbound.selection.pool,
        inbound.path,
    )
    return _run_bridge(settings, bridge)


def _run_bridge(settings: Settings, bridge: OutboundBridge | InboundBridge) -> str:
    direction = "out" if isinstance(bridge, OutboundBridge) else "in"
    with (
        contextlib.closing(NotifySocket(os.environ.get("NOTIFY_SOCKET"))) as notify,
        _signals(bridge) as received,
        answering(settings.status_socket, bridge, settings.name, direction, settings.scheme.extra),
    ):
        notify.send("READY=1")
        error = bridge.run()
        notify.send("STOPPING=1")
        LOG.info("stopped: %s", bridge.pipeline.counters)
        return error or ("stopped by SIGHUP" if signal.SIGHUP in received else "")


@contextlib.contextmanager
def _signals(bridge: OutboundBridge | InboundBridge) -> Iterator[list[int]]:
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
