# SPDX-License-Identifier: Apache-2.0
"""Destinations of the log."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from logging.handlers import SysLogHandler
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_log import log

from notif_relayd.daemon import log_setup


def test_log_that_no_process_reads_is_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    monkeypatch.setitem(log_setup.SOCKETS, "use_syslog", os.fspath(path))
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf(["--use-syslog"], default_config_files=[])
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        log_setup.warn_about_lost_log(conf)
        assert f"no process reads {path}: log lines for it (use_syslog)" in capfd.readouterr().err
        with socket.socket(socket.AF_UNIX, kind) as reader:
            reader.bind(os.fspath(path))
            if kind == socket.SOCK_STREAM:
                reader.listen()
            log_setup.warn_about_lost_log(conf)
            assert capfd.readouterr().err == ""
        path.unlink()


def test_handler_of_a_logging_file_without_a_reader_is_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.fspath(tmp_path / "log")
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf(["--log-config-append", "/etc/log.conf"], default_config_files=[])
    with contextlib.closing(SysLogHandler(path)) as handler:
        monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
        log_setup.warn_about_lost_log(conf)
    assert f"no process reads {path}: log lines for it (log.conf)" in capfd.readouterr().err
