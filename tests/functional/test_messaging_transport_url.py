# SPDX-License-Identifier: Apache-2.0
"""Valid transport URLs, and the errors for invalid ones."""

from __future__ import annotations

import re
from pathlib import Path

import oslo_messaging
import pytest

from support.messaging import Endpoint, configuration, running_listener
from support.records import record
from support.relay import running_relay


def transport(url: str) -> oslo_messaging.NotificationTransport:
    return oslo_messaging.get_notification_transport(configuration(), url=url)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("n.sock", "unix://{}/n.sock"),
        ("n.sock", "unix:{}/n.sock"),
        ("n.sock", "unix:///{}/n.sock"),
        ("n.sock", "unix://{}/../{}/./n.sock"),
        ("a b?c#d%e@f,g;h.sock", "unix://{}/a%20b%3Fc%23d%25e@f,g;h.sock"),
        ("hôte.sock", "unix://{}/h%C3%B4te.sock"),
        ("hôte.sock", "unix://{}/hôte.sock"),
        ("n.sock", "unix://{}%2Fn.sock"),
    ],
)
def test_url_may_name_any_absolute_path(directory: Path, name: str, url: str) -> None:
    public = directory / name
    url = url.format(directory, directory.name)
    endpoint = Endpoint("info")
    with (
        running_relay(directory, "--oslo_messaging_notifications-sock_path", str(public)) as relay,
        relay.produce() as producer,
        running_listener(transport(url), endpoint),
    ):
        producer.sendall(record(payload=url))
        assert endpoint.next_notification().payload == url


def test_url_is_read_from_the_configuration(directory: Path) -> None:
    url = f"unix://{directory}/notifications.sock"
    made = oslo_messaging.get_notification_transport(configuration(transport_url=url))
    with running_relay(directory) as relay, running_listener(made, Endpoint()):
        assert relay.status()["subscribers"] == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("unix:", "has no absolute path"),
        ("unix://", "has no absolute path"),
        ("unix:///", "has no absolute path"),
        ("unix:run/n.sock", "has no absolute path"),
        ("unix://run/n.sock", "a relative path"),
        ("unix://./n.sock", "a relative path"),
        ("unix://n.sock", "a relative path"),
        ("unix://localhost/run/n.sock", "has a host"),
        ("unix://one,two/run/n.sock", "has a host"),
        ("unix://:5672/run/n.sock", "has a host"),
        ("unix://me:pa55word@/run/n.sock", "user or password"),
        ("unix:///run/n.sock?pool=1", "has the unknown key pool in its query"),
        ("unix:///run/n.sock?group=a%20b", "group must be"),
        ("unix:///run/n.sock?window=0", "window must be"),
        ("unix:///run/n.sock?window=x", "invalid literal"),
        ("unix:///run/n.sock?hold=-1", "hold must be"),
        ("unix:///run/n.sock?hold=inf", "hold must be"),
        ("unix:///run/", "names a directory"),
        ("unix:///run/%FF", "not UTF-8"),
        ("unix:///run/%00", "must be the name of a socket file"),
        ("unix:///" + "x" * 107, "at most 107 bytes long"),
        ("unix:///" + "x" * 95 + "/n.sock", "at most 107 bytes long"),  # with ingest.sock instead
    ],
)
def test_invalid_url_is_refused_with_a_reason(url: str, reason: str) -> None:
    with pytest.raises(oslo_messaging.InvalidTransportURL, match=re.escape(reason)) as raised:
        transport(url)
    sentence = str(raised.value)
    assert sentence.startswith("transport_url ")
    assert "pa55word" not in sentence
    assert "\n" not in sentence


def test_fragment_and_empty_query_are_ignored(directory: Path) -> None:
    """oslo.messaging removes a fragment and an empty query before the driver sees the URL."""
    with running_relay(directory):
        for suffix in ("#fragment", "?", "?novalue"):
            with running_listener(
                transport(f"unix://{directory}/notifications.sock{suffix}"), Endpoint()
            ):
                pass
