# SPDX-License-Identifier: Apache-2.0
"""relayctl doctor returns findings, and no traceback, for any configuration file."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notif_relay import paths
from notif_relayctl.accounts import account
from notif_relayctl.doctor import service
from notif_relayctl.doctor.consumer import Bounds
from notif_relayctl.doctor.destination import Sockets
from notif_relayctl.doctor.drivers import SECTION
from notif_relayctl.doctor.finding import Finding
from notif_relayctl.doctor.host import find_relay

SAMPLE = (Path(__file__).parents[2] / "etc" / "notif-relayd" / "logging.conf").read_text()

SOCKETS = Sockets([paths.DEFAULT_PUBLIC_PATH], [paths.DEFAULT_INGEST_PATH])

BOUNDS = Bounds(max_hold=300.0, max_filter_bytes_per_user=8 * 1024 * 1024)

VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            *("", "0", "-1", "log", "unix", "root", "relay", "DEBUG", "%", "%(x)s", "$x", "a\0b"),
            *("()", "((((", "'", "('/a\0b',)", "('x',)", "{}", "notif_relay.RelayHandler"),
            *("unix://[", "unix://%00/x", "unix:///x", "rabbit://u:p[]@h//", "/", "x" * 200),
        ]
    ),
)

LOGGING_LINES = [number for number, line in enumerate(SAMPLE.splitlines()) if " = " in line]


def examine(conf: str, logging: str = SAMPLE) -> list[Finding]:
    """Return the findings for a service; LOGGING in `conf` is the path of its logging file."""
    with tempfile.TemporaryDirectory() as directory:
        path, appended = Path(directory, "service.conf"), Path(directory, "logging.conf")
        path.write_bytes(conf.replace("LOGGING", os.fspath(appended)).encode(errors="replace"))
        appended.write_bytes(logging.encode(errors="replace"))
        return list(service.examine([os.fspath(path)], SOCKETS, BOUNDS))


@given(
    st.sampled_from(["DEFAULT", SECTION, "other"]),
    st.dictionaries(
        st.sampled_from(
            [
                *("driver", "transport_url", "sock_path", "ingest_path", "routing_config"),
                *("log_config_append", "notification_driver", "config_source"),
            ]
        ),
        VALUES,
    ),
)
@example(SECTION, {"driver": "unix", "sock_path": "/a\0b"})
@example(SECTION, {"driver": "unix", "sock_path": "$sock_path"})
@example(SECTION, {"driver": "messagingv2", "transport_url": "rabbit://u:p[]@h//"})
@example(SECTION, {"driver": "routing", "routing_config": "/a\0b"})
@example("DEFAULT", {"notification_driver": "log", "log_config_append": "/a\0b"})
def test_any_service_option_value_gives_findings(section: str, values: dict[str, str]) -> None:
    lines = [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
    assert examine("\n".join(lines))


@given(st.dictionaries(st.sampled_from(LOGGING_LINES), VALUES, max_size=3))
@example(dict.fromkeys(LOGGING_LINES[-3:], "%"))
def test_any_logging_file_value_gives_findings(values: dict[int, str]) -> None:
    lines = SAMPLE.splitlines()
    for number, value in values.items():
        lines[number] = f"{lines[number].partition(' = ')[0]} = {value}"
    conf = f"[DEFAULT]\nlog_config_append = LOGGING\n[{SECTION}]\ndriver = log\n"
    assert examine(conf, "\n".join(lines))


@given(st.binary(max_size=200))
def test_any_configuration_bytes_give_findings(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "service.conf")
        path.write_bytes(content)
        assert list(service.examine([os.fspath(path)], SOCKETS, BOUNDS))


def test_fifos_as_configuration_files_are_not_opened(tmp_path: Path) -> None:
    directory = tmp_path / "conf.d"
    directory.mkdir()
    os.mkfifo(directory / "nova.conf")
    for path in (directory, directory / "nova.conf", "/dev/zero"):
        (finding,) = service.examine([os.fspath(path)], SOCKETS, BOUNDS)
        assert finding.result == "failed"
        assert "is not a regular file" in finding.finding


@pytest.mark.parametrize("path", ["/a\0b", f"/{'x' * 200}"])
@pytest.mark.parametrize(
    "option", ["[oslo_messaging_notifications]\nsock_path", "[relayd]\ncontrol_path"]
)
def test_impossible_socket_path_is_a_failed_check(tmp_path: Path, option: str, path: str) -> None:
    conf = tmp_path / "relayd.conf"
    conf.write_text(f"{option} = {path}\n")
    host = find_relay(paths.RUNTIME_DIR, f"{paths.RUNTIME_DIR}/control.sock", os.fspath(conf))
    assert host.configuration.result == "failed"
    assert host.public.path == paths.DEFAULT_PUBLIC_PATH


@pytest.mark.parametrize("user", ["", "-1", "4294967295", "\0", "9" * 30, "\udcff", "nobody\n"])
def test_impossible_user_is_a_lookup_error(user: str) -> None:
    with pytest.raises(LookupError, match="does not exist"):
        account(user)


def test_account_has_its_login_groups() -> None:
    entry = pwd.getpwuid(0)
    assert account("0") == account(entry.pw_name)
    assert entry.pw_gid in account("0").groups
