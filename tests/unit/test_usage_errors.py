# SPDX-License-Identifier: Apache-2.0
"""Errors in arguments and options become one line."""

from __future__ import annotations

import argparse
import sys

import pytest
from oslo_config import cfg

from notif_relayd.errors import StartError, one_line, usage_errors


def test_message_of_argparse_has_no_usage(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="program")
    parser.add_argument("--size", type=int)
    with (
        pytest.raises(StartError, match=r"\Aargument --size: invalid int value: 'error: x'\Z"),
        usage_errors(StartError),
    ):
        parser.parse_args(["--size", "error: x"])
    assert capsys.readouterr() == ("", "")


def test_message_of_oslo_config_is_kept() -> None:
    conf = cfg.ConfigOpts()
    conf.register_cli_opts([cfg.IntOpt("size")])
    with pytest.raises(StartError, match=r"--size.* x"), usage_errors(StartError):
        conf(["--size", "x"], project="program", prog="program")


def test_successful_exit_is_not_an_error() -> None:
    with pytest.raises(SystemExit), usage_errors(StartError):
        sys.exit(0)


def test_one_line_joins_all_lines() -> None:
    assert one_line(ValueError("first\n  second\t third\n")) == "first second third"
