# SPDX-License-Identifier: Apache-2.0
"""relayctl finds the sockets of a relay by its instance, its directory or its configuration."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from notif_relay import paths
from notif_relayctl.doctor.units import Names
from notif_relayctl.instances import instance_directory, instance_of
from notif_relayctl.location import socket_path
from notif_relayd import settings
from notif_relayd.daemon import config_files


@pytest.mark.parametrize("name", ["nova", "nova-compute", "a.b_c:d", "x\\x2d"])
def test_instance_has_a_directory_and_units(name: str) -> None:
    directory = instance_directory(name)
    assert directory == f"/run/notif-relayd/{name}"
    assert instance_of(f"{directory}/") == name
    assert Names.of(name).public == f"notif-relayd@{name}.socket"


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a b", "-a", "a\n", "\u00e9", "@"])
def test_impossible_instance_name_is_refused(name: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not the name of an instance"):
        instance_directory(name)


@pytest.mark.parametrize("directory", ["/run/notif-relayd", "/run/nova", "/run/notif-relayd/a/b"])
def test_other_directory_is_no_instance(directory: str) -> None:
    assert instance_of(directory) is None
    assert Names.of(None).enable == "systemctl enable --now notif-relayd.socket"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of relayd.conf; the default directory of the sockets is empty."""
    monkeypatch.setattr(paths, "RUNTIME_DIR", os.fspath(tmp_path / "default"))
    for module in (settings, config_files):
        monkeypatch.setattr(module, "CONFIG_FILE", os.fspath(tmp_path / "relayd.conf"))
        monkeypatch.setattr(module, "CONFIG_DIR", os.fspath(tmp_path / "relayd.conf.d"))
    return tmp_path / "relayd.conf"


def test_sockets_are_where_the_configuration_says(config: Path) -> None:
    config.write_text("[oslo_messaging_notifications]\nsock_path = /run/nova/public.sock\n")
    names = (paths.PUBLIC_SOCKET, paths.INGEST_SOCKET, paths.CONTROL_SOCKET)
    assert [socket_path(paths.RUNTIME_DIR, name) for name in names] == [
        "/run/nova/public.sock",
        "/run/nova/ingest.sock",
        "/run/nova/control.sock",
    ]
    assert socket_path("/run/cinder", paths.PUBLIC_SOCKET) == "/run/cinder/notifications.sock"


def test_existing_socket_is_used_without_the_configuration(config: Path) -> None:
    config.write_text("[oslo_messaging_notifications]\nsock_path = /run/nova/public.sock\n")
    path = Path(paths.RUNTIME_DIR, paths.PUBLIC_SOCKET)
    path.parent.mkdir()
    path.touch()
    assert socket_path(paths.RUNTIME_DIR, paths.PUBLIC_SOCKET) == os.fspath(path)


@pytest.mark.parametrize("content", [None, "[relayd]\n", "[relayd", "[relayd]\nno_such = 1\n"])
def test_default_path_without_a_usable_configuration(config: Path, content: str | None) -> None:
    if content is not None:
        config.write_text(content)
    path = socket_path(paths.RUNTIME_DIR, paths.PUBLIC_SOCKET)
    assert os.path.basename(path) == paths.PUBLIC_SOCKET
