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
    arguments = ["--size", "error: x"]
    with (
        pytest.raises(StartError, match=r"\Aargument --size: invalid int value: 'error: x'\Z"),
        usage_errors(StartError, arguments, parser.print_help),
    ):
        parser.parse_args(arguments)
    assert capsys.readouterr() == ("", "")


def test_message_of_oslo_config_names_the_option() -> None:
    conf = cfg.ConfigOpts()
    conf.register_cli_opts([cfg.IntOpt("size"), cfg.BoolOpt("max_size")])
    for argument, message in (
        ("--size=x", r"--size.* x"),
        ("--max-siz", r"\Aunknown option '--max-siz'; did you mean --max_size\?\Z"),
    ):
        with (
            pytest.raises(StartError, match=message),
            usage_errors(StartError, [argument], conf.print_help),
        ):
            conf([argument], project="program", prog="program")


@pytest.mark.parametrize(
    ("value", "end"),
    [("tabel", r"\); did you mean table\?"), ("x", r"\)"), ("it's, tabel", r"\)"), ("", r"\)")],
)
def test_nearest_choice_is_suggested(value: str, end: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--format", choices=["json", "table"])
    with (
        pytest.raises(StartError, match=rf"--format: invalid choice: .*table'?{end}\Z"),
        usage_errors(StartError, [], parser.print_help),
    ):
        parser.parse_args(["--format", value])


def test_successful_exit_is_not_an_error() -> None:
    with pytest.raises(SystemExit), usage_errors(StartError, []):
        sys.exit(0)


def test_one_line_joins_all_lines() -> None:
    assert one_line(ValueError("first\n  second\t third\n")) == "first second third"
