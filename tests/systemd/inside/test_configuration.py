# SPDX-License-Identifier: Apache-2.0
"""Options in relayd.conf with sockets that systemd passes."""

from support.container import (
    INGEST,
    PUBLIC,
    SERVICE,
    Journal,
    access,
    allowed,
    configure,
    connect,
    drop_in,
    relays,
    run,
    show,
    states,
    systemctl,
)


def test_mode_and_group_apply_to_passed_sockets() -> None:
    configure("[relayd]", "public_mode = 0666", "ingest_group = notif-relayd")
    systemctl("start", SERVICE)
    assert access(PUBLIC) == ("0666", "notif-relayd", "notif-subscribers")
    assert access(INGEST) == ("0660", "notif-relayd", "notif-relayd")
    assert PUBLIC in allowed("outsider")
    assert INGEST in allowed("admin")
    assert INGEST not in allowed("writer")


def test_unavailable_group_error_names_the_option(
    journal: Journal,
) -> None:
    configure("[relayd]", "public_group = adm")
    with connect(PUBLIC):
        entry = journal.entry(SYSLOG_IDENTIFIER="notif-relayd")
    assert "public_group" in str(entry["MESSAGE"])


def test_invalid_configuration_keeps_the_sockets(journal: Journal) -> None:
    configure("[relayd]", "ring_size = many")
    drop_in("RestartSec=100ms")
    with connect(PUBLIC):
        # More starts in less time than systemd's default start limit allows.
        for _ in range(7):
            journal.entry(SYSLOG_IDENTIFIER="notif-relayd", MESSAGE="ring_size")
        assert states()[1:] == ("active", "active")
    configure("[relayd]", "ring_size = 1048576")
    assert relays()


def test_reload_applies_new_limits_without_a_restart(journal: Journal) -> None:
    configure("[relayd]", "max_subscribers = 2")
    assert relays()
    pid = show("MainPID")
    configure("[relayd]", "max_subscribers = 1")
    systemctl("reload", SERVICE)
    journal.entry(MESSAGE="configuration reloaded")
    with connect(PUBLIC), connect(PUBLIC) as refused:
        assert b"max_subscribers" in refused.makefile("rb").readline()
    assert show("MainPID") == pid


def test_reload_fails_with_the_error_of_the_configuration(journal: Journal) -> None:
    configure("[relayd]", "max_subscribers = 2")
    assert relays()
    pid = show("MainPID")
    configure("[relayd]", "max_subscriber = 1")
    assert run("systemctl", "reload", SERVICE).returncode != 0
    journal.entry(SYSLOG_IDENTIFIER="notif-relayd", MESSAGE="did you mean max_subscribers")
    assert (show("MainPID"), show("ActiveState")) == (pid, "active")
    configure("[relayd]", "max_subscribers = 1")
    systemctl("reload", SERVICE)
    journal.entry(MESSAGE="configuration reloaded")
    assert relays()
