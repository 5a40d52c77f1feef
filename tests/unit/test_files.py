# SPDX-License-Identifier: Apache-2.0
"""Outputs: a regular file is replaced, everything else is written to."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from notif_relayd.files import write_output


def test_regular_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    path, second_name = tmp_path / "out", tmp_path / "second"
    before = os.umask(0o027)
    try:
        write_output(str(path), b"first\n")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o604)
    os.link(path, second_name)
    write_output(str(path), b"second\n")
    assert path.read_text() == "second\n"
    assert second_name.read_text() == "first\n"
    assert path.stat().st_mode & 0o777 == 0o604
    assert sorted(tmp_path.iterdir()) == [path, second_name]


@pytest.mark.parametrize("exists", [True, False])
def test_link_is_followed(tmp_path: Path, exists: bool) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to("target")
    if exists:
        target.touch()
    write_output(str(link), b"text\n")
    assert link.is_symlink()
    assert target.read_text() == "text\n"


def test_reader_of_a_fifo_gets_the_text(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=write_output, args=(str(path), b"text\n"))
    writer.start()
    assert path.read_text() == "text\n"
    writer.join()
    assert path.is_fifo()


def test_open_descriptor_is_written_at_its_position(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        log.write("first\n")
        log.flush()
        write_output(f"/dev/fd/{log.fileno()}", b"second\n")
        write_output(f"/proc/self/fd/{log.fileno()}", b"third\n")
    assert (tmp_path / "log").read_text() == "first\nsecond\nthird\n"


def test_failed_output_leaves_no_file(tmp_path: Path) -> None:
    for path, error in (
        ("/dev/full", "No space left"),
        (str(tmp_path), "Is a directory"),
        (str(tmp_path / "missing/out"), "No such file"),
    ):
        with pytest.raises(OSError, match=error):
            write_output(path, b"text\n")
    assert list(tmp_path.iterdir()) == []
