# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: options, logging, sockets, background, and an end.

The order matters. What can be wrong is found before the daemon goes to the background and says
that it is ready, so that an error is one line on the terminal and exit status 1. Nothing is
logged before the fork: a logger's connection to the journal would not live through it.
"""

import contextlib
import io
import logging
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from daemon import DaemonContext
from daemon.pidfile import TimeoutPIDLockFile
from lockfile import Error as LockError
from oslo_config import cfg
from oslo_log import log

from notif_relay.version import __version__
from notif_relayd.access.accounts import socket_owner
from notif_relayd.daemon import options
from notif_relayd.daemon.log_queue import LogQueue
from notif_relayd.errors import StartError
from notif_relayd.handover.inherit import Inherited, inherit
from notif_relayd.net.listeners import Listener, adopt, bind, passed
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.net.signals import Signals
from notif_relayd.relay import Manager, Relay, Sockets
from notif_relayd.settings import CONFIG_DIR, CONFIG_FILE, PROGRAM, Limits, SocketPlan
from notif_relayd.systemd import fdstore
from notif_relayd.systemd.environment import number
from notif_relayd.systemd.sdnotify import NotifySocket

LOG = logging.getLogger(__name__)

STDERR = 2

OWN_DESCRIPTORS = 64
"""Descriptors beside those of producers and subscribers: sockets, epoll, logs, relayctl."""


def main(arguments: Sequence[str]) -> int:
    """Run the daemon until it is told to stop; the exit status."""
    conf = cfg.ConfigOpts()
    try:
        _parse(conf, arguments)
        settings = options.settings(conf)
        _set_up_logging(conf, settings.daemonize)
        with contextlib.ExitStack() as stack:
            listeners, inherited = _listen(stack, settings)
            if settings.daemonize:
                stack.enter_context(_background(settings.pidfile, listeners))
            written = _serve(conf, settings, listeners, inherited)
    except (StartError, cfg.Error) as error:
        sys.stderr.write(f"{PROGRAM}: {' '.join(str(error).split())}\n")
        return 1
    if not written:
        # The interpreter's own end would wait for the log as well, without a limit, and take what
        # stderr has not taken for a failure of the program (exit status 120).
        os._exit(0)
    return 0


def _parse(conf: cfg.ConfigOpts, arguments: Sequence[str]) -> None:
    options.register(conf)
    log.register_options(conf)
    with _complaints_in_one_line():
        conf(
            arguments,
            project=PROGRAM,
            prog=PROGRAM,
            version=__version__,
            description="Relays notifications from the private socket to all subscribers.",
            default_config_files=[CONFIG_FILE] if os.path.exists(CONFIG_FILE) else [],
            default_config_dirs=[CONFIG_DIR] if os.path.isdir(CONFIG_DIR) else [],
        )


@contextlib.contextmanager
def _complaints_in_one_line() -> Iterator[None]:
    """Make an error of what oslo.config leaves to argparse: usage, message and exit.

    It does so for every option that may stand on the command line, even if the value came from a
    file, and even when that file is read again by a daemon that runs.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            yield
    except SystemExit as leaving:
        if leaving.code:
            last = complaint.getvalue().strip().rpartition("\n")[2]
            wrong = last.removeprefix(f"{PROGRAM}: error: ")
            raise StartError(f"{wrong}; see {PROGRAM} --help") from None
        raise


def _set_up_logging(conf: cfg.ConfigOpts, background: bool) -> None:
    if _stderr_is_the_journal():
        conf.set_default("use_journal", True)
        # Time, process, level and logger are fields of the journal's own.
        for option in ("logging_default_format_string", "logging_context_format_string"):
            conf.set_default(option, "%(message)s")
    elif not background:
        conf.set_default("use_stderr", True)
    elif not conf.log_file and not conf.log_dir:
        conf.set_default("use_syslog", True)
    try:
        with _complaints_of_logging(conf):
            log.setup(conf, PROGRAM, __version__)
    except OSError as error:
        raise StartError(
            f"the log cannot be written: {error.filename}: {error.strerror}; "
            "set log_file or log_dir to a place that the daemon's user may write to"
        ) from error


@contextlib.contextmanager
def _complaints_of_logging(conf: cfg.ConfigOpts) -> Iterator[None]:
    """Make an error of what is wrong with a log configuration file.

    oslo.log knows some of it. The rest is whatever the classes say that the file names.
    """
    try:
        yield
    except log.LogConfigError as error:
        raise StartError(str(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError, ImportError) as error:
        if not conf.log_config_append:
            raise
        raise StartError(
            f"log_config_append {conf.log_config_append} cannot be used: {error}"
        ) from error


def _stderr_is_the_journal() -> bool:
    # systemd.exec(5), JOURNAL_STREAM: device and inode, to be compared with stderr's.
    try:
        stderr = os.fstat(STDERR)
    except OSError:
        return False  # It may be closed.
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


def _listen(
    stack: contextlib.ExitStack, settings: options.Settings
) -> tuple[dict[str, Listener], Inherited]:
    listeners: dict[str, Listener] = {}

    def hold(plan: SocketPlan, listener: Listener) -> None:
        stack.callback(listener.close)
        listeners[plan.name] = listener

    plans = {plan.name: plan for plan in (settings.public, settings.ingest)}
    others = []
    for name, fd in passed():
        if name in plans:
            plan = plans.pop(name)
            hold(plan, adopt(fd, plan, socket_owner(plan)))
        else:
            others.append((name, fd))
    for plan in (*plans.values(), settings.control):
        hold(plan, bind(plan, socket_owner(plan)))
    return listeners, inherit(others)


@contextlib.contextmanager
def _background(pidfile: str | None, listeners: dict[str, Listener]) -> Iterator[None]:
    keep = [listener.socket for listener in listeners.values()]
    logs = [getattr(handler, "stream", None) for handler in logging.getLogger().handlers]
    context = DaemonContext(
        detach_process=True,
        files_preserve=[*keep, *(each for each in logs if each is not None)],
        pidfile=_pid_lock(pidfile) if pidfile else None,
        umask=0o022,
    )
    with context:
        yield


def _pid_lock(path: str) -> TimeoutPIDLockFile:
    """The file, checked as far as it can be while there is a terminal to complain to.

    One left by a daemon that is dead is removed; one that holds anything else is somebody's.
    """
    lock = TimeoutPIDLockFile(path, acquire_timeout=0)
    try:
        pid = lock.read_pid()
        if pid is not None and _alive(pid):
            raise StartError(f"--pidfile {path}: held by process {pid}: stop it first")
        if pid is not None or (lock.is_locked() and not os.path.getsize(path)):
            lock.break_lock()
        lock.acquire()
        lock.release()
    except (OSError, LockError) as error:
        raise StartError(f"--pidfile {path} cannot be used: {error}") from error
    return lock


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _serve(
    conf: cfg.ConfigOpts,
    settings: options.Settings,
    listeners: dict[str, Listener],
    inherited: Inherited,
) -> bool:
    """Relay until it is over; whether the log took everything."""
    writer = LogQueue()
    writer.take_over()
    try:
        _relay(conf, settings, listeners, inherited, writer)
    except StartError:
        raise
    except Exception:
        # Where nobody catches it, the end comes before the log's thread has written anything.
        LOG.exception("ended by an error that should not have happened")
        if not writer.close():
            os._exit(1)
        sys.exit(1)
    return writer.close()


def _relay(
    conf: cfg.ConfigOpts,
    settings: options.Settings,
    listeners: dict[str, Listener],
    inherited: Inherited,
    writer: LogQueue,
) -> None:
    held = not (listeners["public"].bound_here or listeners["ingest"].bound_here)
    limits = _for_sockets(settings.limits, held)
    _raise_descriptor_limit(limits)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(
            contextlib.closing(Signals(lambda: _reload(conf, relay, held, writer)))
        )
        notify = stack.enter_context(
            contextlib.closing(NotifySocket(os.environ.get("NOTIFY_SOCKET")))
        )
        sockets = Sockets(**{name: listener.socket for name, listener in listeners.items()})
        capacity = _store_capacity() if held and notify.there else 0
        relay = Relay(
            limits,
            settings.rules,
            sockets,
            Manager(notify, capacity, inherited),
            signals,
            RateLimitedLog(LOG),
        )
        LOG.info(
            "relaying from %s to %s",
            listeners["ingest"].socket.getsockname(),
            listeners["public"].socket.getsockname(),
        )
        for listener in listeners.values():
            listener.own()
            if listener.remark:
                LOG.warning("%s", listener.remark)
        relay.run()
        LOG.info("stopped")


def _for_sockets(limits: Limits, held: bool) -> Limits:
    """The limits for sockets that systemd holds, or for the daemon's own."""
    if limits.idle_timeout and not held:
        raise StartError(
            "[relayd] idle_timeout: systemd does not hold the sockets, so nobody would start the "
            "daemon again: leave it out"
        )
    if limits.idle_timeout is None and held:
        return replace(limits, idle_timeout=options.DEFAULT_IDLE_TIMEOUT)
    return limits


def _store_capacity() -> int:
    # systemd sets the first since version 254; the other is from the unit, for those before.
    for name in ("FDSTORE", "RELAYD_FDSTORE"):
        capacity = number(name)
        if capacity is not None:
            return capacity
    return fdstore.UNKNOWN


def _reload(conf: cfg.ConfigOpts, relay: Relay, held: bool, writer: LogQueue) -> None:
    try:
        with _complaints_in_one_line(), _complaints_of_logging(conf), writer.changing():
            conf.mutate_config_files()
        limits = _for_sockets(options.settings(conf).limits, held)
    except (StartError, cfg.Error) as error:
        LOG.error("the configuration was not reloaded: %s", " ".join(str(error).split()))
        return
    _raise_descriptor_limit(limits)
    relay.apply(limits)
    LOG.info("configuration reloaded")


def _raise_descriptor_limit(limits: Limits) -> None:
    # A subscriber's filter takes one as well.
    need = (
        limits.producers.max_connections + 2 * limits.subscribers.max_connections + OWN_DESCRIPTORS
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(need, hard):
        # A sandbox may forbid it; what counts is what is allowed afterwards.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(need, hard), hard))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < need:
        LOG.warning(
            "the process may open %d files, but max_producers and max_subscribers need %d: "
            "raise LimitNOFILE= or lower them",
            allowed,
            need,
        )
