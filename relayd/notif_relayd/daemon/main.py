# SPDX-License-Identifier: Apache-2.0
"""The daemon's process, from the command line to the exit status.

Errors are found before the process goes to the background or reports that it is ready, so that an
error is one line on the terminal and exit status 1. Nothing is logged before the fork, because a
logger's connection to the journal does not survive it.
"""

import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from notif_relay.version import __version__
from notif_relayd.daemon.background import background
from notif_relayd.daemon.configuration import Configuration
from notif_relayd.daemon.log_queue import LogQueue
from notif_relayd.daemon.log_setup import (
    check_logging,
    is_journal,
    set_up_logging,
    warn_about_lost_log,
)
from notif_relayd.daemon.options import Settings
from notif_relayd.daemon.pidfile import check_pidfile
from notif_relayd.daemon.resources import fdstore_capacity, raise_descriptor_limit
from notif_relayd.daemon.sockets import OpenSockets, check_sockets, open_sockets, with_idle_timeout
from notif_relayd.errors import StartError, one_line
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.net.signals import Signals
from notif_relayd.relay import Manager, Platform, Relay
from notif_relayd.settings import PROGRAM, Limits
from notif_relayd.stdio import STDOUT
from notif_relayd.systemd.sdnotify import NotifySocket

LOG = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the daemon until a signal or the idle timeout stops it; return the exit status."""
    try:
        configuration = Configuration(arguments, __version__)
        settings = configuration.load()
        if settings.check:
            check_logging(configuration.conf, settings.daemonize)
            check_sockets(settings)
            if settings.pidfile:
                check_pidfile(settings.pidfile)
            if not is_journal(STDOUT):  # systemd logs the result itself.
                sys.stdout.write("ok\n")
            return 0
        # SIGHUP would end the process until the relay handles it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        set_up_logging(configuration.conf, settings.daemonize)
        with contextlib.ExitStack() as stack:
            opened = open_sockets(stack, settings)
            limits = with_idle_timeout(settings.limits, opened.held_by_systemd)
            settings = replace(settings, limits=limits)
            ready: Callable[[], None] = functools.partial(warn_about_lost_log, configuration.conf)
            if settings.daemonize:
                ready = stack.enter_context(background(settings.pidfile, ready))
            log_is_written = _run(configuration, settings, opened, ready)
    except StartError as error:
        sys.stderr.write(f"{PROGRAM}: {one_line(error)}\n")
        return 1
    if not log_is_written:
        # A regular exit would wait for the log without a timeout, and would return status 120 if
        # standard error does not accept data.
        os._exit(0)
    return 0


def _run(
    configuration: Configuration,
    settings: Settings,
    opened: OpenSockets,
    ready: Callable[[], None],
) -> bool:
    """Run the relay; return whether the log has been written completely.

    Args:
        configuration: read again on a reload.
        settings: the values at the start.
        opened: the sockets.
        ready: called when the relay accepts connections.
    """
    log_queue = LogQueue()
    log_queue.take_over()
    try:
        _relay(configuration, settings, opened, log_queue, ready)
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
    settings: Settings,
    opened: OpenSockets,
    log_queue: LogQueue,
    ready: Callable[[], None],
) -> None:
    limits = settings.limits
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
        ready()
        relay.run()
        LOG.info("stopped")


def _reloaded(
    configuration: Configuration, running: Limits, held_by_systemd: bool, log_queue: LogQueue
) -> Limits | None:
    """Read the configuration again; return its limits, or `None` if it has an error."""
    try:
        with log_queue.changing():
            limits = with_idle_timeout(configuration.read_again(running), held_by_systemd)
            configuration.apply_logging()
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
