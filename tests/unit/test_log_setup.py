# SPDX-License-Identifier: Apache-2.0
"""Destinations of the log and of messages."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_log import log

from notif_relayd.daemon import log_setup
from notif_relayd.daemon.main import main


def test_ok_is_not_printed_to_the_journal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--check", "--config-file", os.devnull]
    assert main(arguments) == 0
    assert capfd.readouterr() == ("ok\n", "")
    status = os.fstat(1)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert main(arguments) == 0
    assert capfd.readouterr() == ("", "")


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
        assert f"no process reads {path} (use_syslog)" in capfd.readouterr().err
        with socket.socket(socket.AF_UNIX, kind) as reader:
            reader.bind(os.fspath(path))
            if kind == socket.SOCK_STREAM:
                reader.listen()
            log_setup.warn_about_lost_log(conf)
            assert capfd.readouterr().err == ""
        path.unlink()
