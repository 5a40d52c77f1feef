# SPDX-License-Identifier: Apache-2.0
"""The connection of a bridge to the relay's private socket."""

from __future__ import annotations

import itertools
import resource
import select
import socket
from pathlib import Path

import pytest

from notif_relayd_bridge.inbound.writer import Writer


def test_missing_descriptor_does_not_end_the_bridge(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "ingest.sock")
    writer = Writer(path, select.poll(), itertools.count().__next__)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as relay:
        relay.bind(path)
        relay.listen()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            assert not writer.connect()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "Too many open files" in caplog.text
        assert writer.connect()
        writer.close()
