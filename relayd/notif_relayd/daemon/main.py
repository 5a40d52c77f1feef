# SPDX-License-Identifier: Apache-2.0
"""The daemon's process, from the command line to the exit status.

Errors are found before the process goes to the background or reports that it is ready, so that an
error is one line on the terminal and exit status 1. Nothing is logged before the fork, because a
logger's connection to the journal does not survive it.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

from notif_relay.version import __version__
from notif_relayd.daemon import options
from notif_relayd.daemon.background import background
from notif_relayd.daemon.configuration import Configuration
from notif_relayd.daemon.log_queue import LogQueue
from notif_relayd.daemon.log_setup import check_logging, set_up_logging
from notif_relayd.daemon.resources import fdstore_capacity, raise_descriptor_limit
from notif_relayd.daemon.sockets import OpenSockets, open_sockets
from notif_relayd.errors import StartError, one_line
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.net.signals import Signals
from notif_relayd.relay import Manager, Platform, Relay
from notif_relayd.settings import PROGRAM, Limits
from notif_relayd.systemd.sdnotify import NotifySocket

LOG = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the daemon until a signal or the idle timeout stops it; return the exit status."""
    try:
        configuration = Configuration(arguments, __version__)
        settings = configuration.load()
        if settings.check:
            check_logging(configuration.conf)
            sys.stdout.write("ok\n")
            return 0
        # SIGHUP would end the process until the relay handles it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        set_up_logging(configuration.conf, settings.daemonize)
        with contextlib.ExitStack() as stack:
            opened = open_sockets(stack, settings)
            if settings.daemonize:
                sockets = [listener.socket for listener in opened.listeners]
                stack.enter_context(background(settings.pidfile, sockets))
            log_is_written = _run(configuration, settings, opened)
    except StartError as error:
        sys.stderr.write(f"{PROGRAM}: {one_line(error)}\n")
        return 1
    if not log_is_written:
        # A regular exit would wait for the log without a timeout, and would return status 120 if
        # standard error does not accept data.
        os._exit(0)
    return 0


def _run(configuration: Configuration, settings: options.Settings, opened: OpenSockets) -> bool:
    """Run the relay; return whether the log has been written completely."""
    log_queue = LogQueue()
    log_queue.take_over()
    try:
        _relay(configuration, settings, opened, log_queue)
    except StartError:
        raise
    except Exception:
        # The interpreter would end the process before the log's thread has written the traceback.
        LOG.exception("unhandled exception, exiting")
        if not log_queue.close():
            os._exit(1)
        sys.exit(1)
    return log_queue.close()


def _relay(
    configuration: Configuration,
    settings: options.Settings,
    opened: OpenSockets,
    log_queue: LogQueue,
) -> None:
    limits = _with_idle_timeout(settings.limits, opened.held_by_systemd)
    raise_descriptor_limit(limits)

    def reload() -> None:
        nonlocal limits
        with relay.reloading():
            changed = _reloaded(configuration, limits, opened.held_by_systemd, log_queue)
            if changed is not None:
                limits = changed
                relay.apply(limits)

    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(contextlib.closing(Signals(reload)))
        notify = stack.enter_context(
            contextlib.closing(NotifySocket(os.environ.get("NOTIFY_SOCKET")))
        )
        capacity = fdstore_capacity() if opened.held_by_systemd and notify.usable else 0
        relay = Relay(
            limits,
            settings.policy,
            opened.sockets,
            Manager(notify, capacity, opened.inherited),
            Platform(signals),
            RateLimitedLog(LOG),
        )
        LOG.info(
            "relaying from %s to %s",
            opened.ingest.socket.getsockname(),
            opened.public.socket.getsockname(),
        )
        for listener in (*opened.more_public, *opened.more_ingest):
            LOG.info("also listening on %s", listener.socket.getsockname())
        for listener in opened.listeners:
            listener.relisten()
            if listener.warning:
                LOG.warning("%s", listener.warning)
        relay.run()
        LOG.info("stopped")


def _with_idle_timeout(limits: Limits, held_by_systemd: bool) -> Limits:
    """Return the limits with the default idle timeout, if systemd holds the sockets.

    Raises:
        StartError: an idle timeout is configured, but systemd does not hold the sockets.
    """
    if limits.idle_timeout and not held_by_systemd:
        raise StartError(
            "[relayd] idle_timeout: systemd does not hold the sockets and cannot start the daemon "
            "again: remove this option"
        )
    if limits.idle_timeout is None and held_by_systemd:
        return replace(limits, idle_timeout=options.DEFAULT_IDLE_TIMEOUT)
    return limits


def _reloaded(
    configuration: Configuration, running: Limits, held_by_systemd: bool, log_queue: LogQueue
) -> Limits | None:
    """Read the configuration again; return its limits, or `None` if it has an error."""
    try:
        with log_queue.changing():
            limits = _with_idle_timeout(configuration.reload(running), held_by_systemd)
    except StartError as error:
        LOG.error("the configuration was not reloaded: %s", one_line(error))
        return None
    except (Exception, SystemExit) as error:
        # A logging file contains Python expressions, which may raise anything. No error in a file
        # ends the daemon.
        LOG.exception("the configuration was not reloaded: %s", one_line(error))
        return None
    raise_descriptor_limit(limits)
    LOG.info("configuration reloaded")
    return limits
