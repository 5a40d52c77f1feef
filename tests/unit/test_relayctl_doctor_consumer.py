# SPDX-License-Identifier: Apache-2.0
"""Verdicts of relayctl doctor on the configuration of consumers."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oslo_config import cfg
from oslo_messaging import InvalidTransportURL, TransportURL

from notif_relay import paths
from notif_relay.messaging.transport import UnixTransportDriver
from notif_relayctl.doctor import service, transport_url
from notif_relayctl.doctor.consumer import WINDOW_COST, Bounds
from notif_relayctl.doctor.destination import Sockets
from notif_relayctl.doctor.finding import MAX_TEXT, Finding
from notif_relayctl.doctor.service import NOTIFY_DRIVERS, TRANSPORTS, Use
from notif_relayctl.doctor.urls import MAX_URLS
from notif_relayd.records.subscription_request import UNFINISHED_COST

SOCKETS = Sockets(["/run/relay/notifications.sock"], ["/run/relay/ingest.sock"])
BOUNDS = Bounds(max_hold=300.0, max_filter_bytes_per_user=8 * 1024 * 1024)

PUBLIC = f"unix://{SOCKETS.public[0]}"
INGEST = f"unix://{SOCKETS.ingest[0]}"
SECTION = "[oslo_messaging_notifications]\n"
URLS = "[notification]\nmessaging_urls = "
DRIVER = f"{SECTION}driver = unix\nsock_path = {SOCKETS.public[0]}\n"


def examine(
    path: Path, conf: str, bounds: Bounds | None = BOUNDS, name: str = "service.conf"
) -> tuple[list[Finding], Use]:
    """Return the findings for a configuration, without its name, and what the service uses."""
    file = path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(conf)
    steps = service.examine([os.fspath(file)], SOCKETS, bounds)
    findings: list[Finding] = []
    while True:
        try:
            found = next(steps)
        except StopIteration as stop:
            return findings, stop.value
        findings.append(found._replace(check=found.check.removeprefix(f"service {file} ")))


OK, WARNING, FAILED = "ok", "warning", "failed"

CASES = {
    # How a consumer is recognised.
    "oslo.messaging's option": (f"{SECTION}transport_url = {PUBLIC}", "transport_url", [OK], ""),
    "oslo.messaging's option beside noop": (
        f"{SECTION}driver = noop\ntransport_url = {PUBLIC}",
        *("transport_url", [OK], "reads from"),
    ),
    "oslo.messaging's option beside log": (
        f"{SECTION}driver = log\ntransport_url = {PUBLIC}",
        *("transport_url", [OK], "reads from"),
    ),
    "a query": (
        f"{SECTION}driver = messagingv2\ntransport_url = {PUBLIC}?window=10",
        *("transport_url", [OK], "reads from"),
    ),
    "ceilometer": (
        f"{URLS}{PUBLIC}\nmessaging_urls = rabbit://u:secret@h/\nmessaging_urls = {PUBLIC}?group=a",
        *("messaging_urls", [OK, OK], "[notification] messaging_urls reads from"),
    ),
    "designate-sink": (
        f"[service:sink]\nworkers = 2\n{SECTION}driver = messagingv2\ntransport_url = {PUBLIC}",
        *("transport_url", [OK], "reads from"),
    ),
    "an unknown option": (f"[mine]\nmy_transport_url = {PUBLIC}", "my_transport_url", [OK], ""),
    "an unknown name": (f"[mine]\nread = {PUBLIC}", "read", [OK], ""),
    "another scheme of the transport": (
        f"{SECTION}transport_url = UNIX+x:{SOCKETS.public[0]}",
        *("transport_url", [OK], ""),
    ),
    # What is no consumer.
    "the URL of a container engine": (
        f"{DRIVER}[docker]\nurl = unix:///var/run/docker.sock",
        *("url", [], ""),
    ),
    "a socket of memcached": (f"{DRIVER}[cache]\nservers = unix:{PUBLIC[7:]}", "servers", [], ""),
    "another section than DEFAULT": (
        f"{DRIVER}[default]\ntransport_url = {PUBLIC}",
        *("transport_url", [], ""),
    ),
    "a leftover beside the driver": (
        f"{DRIVER}transport_url = {PUBLIC}",
        *("transport_url", [], ""),
    ),
    "a notifier": (
        f"{SECTION}driver = messagingv2\ntransport_url = {PUBLIC}",
        *("transport_url", [], ""),
    ),
    # Paths.
    "the private socket": (f"{URLS}{INGEST}", "messaging_urls", [FAILED], "is for producers"),
    "no socket": (f"{URLS}unix:///run/relay/x", "messaging_urls", [FAILED], "does not exist"),
    "a file": (f"{URLS}unix:///etc/passwd", "messaging_urls", [FAILED], "is not a socket"),
    "a relative path": (f"{URLS}unix://run/x", "messaging_urls", [FAILED], "not absolute"),
    "no path": (f"{URLS}unix://", "messaging_urls", [FAILED], "has no absolute path"),
    "a directory": (f"{URLS}unix:///run/relay/", "messaging_urls", [FAILED], "names a directory"),
    "a long path": (f"{URLS}unix:///{'x' * 200}", "messaging_urls", [FAILED], "107 bytes"),
    "a NUL": (f"{URLS}unix:///a%00b", "messaging_urls", [FAILED], "name of a socket"),
    "no URL": (f"{URLS}unix://[", "messaging_urls", [FAILED], "not a valid URL"),
    "a fragment": (f"{URLS}{PUBLIC}#x", "messaging_urls", [OK, WARNING], "write # as %23"),
    "a leftover that ends the service": (
        f"{DRIVER}transport_url = unix://host/x",
        *("transport_url", [FAILED], "cannot use"),
    ),
    # Queries.
    "all keys": (f"{URLS}{PUBLIC}?group=a&window=9&hold=9.5", "messaging_urls", [OK], ""),
    "an unknown key": (f"{URLS}{PUBLIC}?holt=9", "messaging_urls", [FAILED], "unknown key 'holt'"),
    "no window": (f"{URLS}{PUBLIC}?window=0", "messaging_urls", [FAILED], "from 1 to 65536"),
    "a word as window": (f"{URLS}{PUBLIC}?window=x", "messaging_urls", [FAILED], "not 'x'"),
    "a window twice": (
        f"{URLS}{PUBLIC}?window=1&window=2",
        *("messaging_urls", [FAILED], "not '1,2'"),
    ),
    "an endless hold": (f"{URLS}{PUBLIC}?hold=inf", "messaging_urls", [FAILED], "0 or greater"),
    "no number as hold": (f"{URLS}{PUBLIC}?hold=nan", "messaging_urls", [FAILED], "0 or greater"),
    "a long hold": (
        f"{URLS}{PUBLIC}?hold=301",
        *("messaging_urls", [OK, FAILED], "set hold to at most 300"),
    ),
    "the longest hold": (f"{URLS}{PUBLIC}?hold=300", "messaging_urls", [OK], ""),
    "a name of a group": (f"{URLS}{PUBLIC}?group=a%20b", "messaging_urls", [FAILED], "'a b'"),
    "the largest window": (
        f"{URLS}{PUBLIC}?window=65536",
        *("messaging_urls", [OK, WARNING], "refuses a second worker"),
    ),
    "an own copy": (f"{URLS}{PUBLIC}?group=-", "messaging_urls", [OK], ""),
    "an own copy with a hold": (
        f"{URLS}{PUBLIC}?group=-&hold=900",
        *("messaging_urls", [OK, WARNING], "an own copy has no hold"),
    ),
    "an empty group": (
        f"{URLS}{PUBLIC}?group=",
        *("messaging_urls", [OK, WARNING], "write group=-"),
    ),
    "an empty group in oslo.messaging's option": (
        f"{SECTION}transport_url = {PUBLIC}?group=",
        *("transport_url", [OK], ""),
    ),
    # Middleware and programs with another URL.
    "swift": (f"[filter:ceilometer]\nurl = {PUBLIC}", "url", [OK], "sends to"),
    "swift to nowhere": (
        "[filter:ceilometer]\nurl = unix:///nowhere/x",
        *("url", [FAILED], "does not exist"),
    ),
    "the audit middleware": (
        f"{DRIVER}[audit_middleware_notifications]\ntransport_url = {PUBLIC}",
        *("transport_url", [OK], "sends to"),
    ),
    "procedure calls": (
        f"[DEFAULT]\ntransport_url = {PUBLIC}",
        *("transport_url", [OK, WARNING], "name a broker there"),
    ),
    "the old name of the option": (
        f"[DEFAULT]\nnotification_transport_url = {PUBLIC}",
        *("notification_transport_url", [WARNING, OK], "new versions of oslo.messaging ignore"),
    ),
    "barbican": (
        f"{SECTION}transport_url = {PUBLIC}\n[keystone_notifications]\nenable = true",
        *("transport_url", [OK, WARNING], "a file that only barbican"),
    ),
    "a file of barbican's own": (
        f"[DEFAULT]\ntransport_url = {PUBLIC}\n[keystone_notifications]\nenable = true",
        *("transport_url", [OK], "reads from"),
    ),
    "mistral": (
        f"{SECTION}transport_url = {PUBLIC}\n[event_engine]\nlistener_pool_name = a",
        *("transport_url", [OK, WARNING], "mistral's event engine reads"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_verdict_on_the_configuration_of_a_consumer(tmp_path: Path, name: str) -> None:
    conf, check, results, text = CASES[name]
    rows = examine(tmp_path, conf)[0]
    found = [each for each in rows if each.check == check]
    assert [each.result for each in found] == results, found
    assert any(text in f"{each.finding} {each.advice}" for each in found or rows), found
    assert {each.result for each in rows if each.check != check} <= {"ok"}, rows
    for each in rows:
        assert bool(each.advice) == (each.result != "ok"), each
        assert "secret" not in str(each)


def test_ceilometer_and_aodh_use_one_relay(tmp_path: Path) -> None:
    conf = f"{SECTION}transport_url = {PUBLIC}\ndriver = messagingv2\n"
    for program in ("ceilometer", "aodh"):
        rows, use = examine(tmp_path, conf, name=f"{program}/{program}.conf")
        assert {each.check: each.result for each in rows} == {
            "driver": "ok",
            "messagingv2": "ok",
            "transport_url": "ok",
        }
        assert use == Use([SOCKETS.public[0]], True, frozenset({TRANSPORTS}))


@pytest.mark.parametrize("name", ["nova/nova.conf", "etc/nova-cpu.conf", "neutron/x.conf"])
def test_url_of_a_service_without_a_driver_is_a_fault(tmp_path: Path, name: str) -> None:
    ((found,), use) = examine(tmp_path, f"{SECTION}transport_url = {PUBLIC}\n", name=name)
    assert (found.result, found.finding) == (
        "failed",
        "it sends no notifications: no driver is set",
    )
    assert not use.reads


def test_programs_that_notify_each_other_also_send(tmp_path: Path) -> None:
    conf = f"{SECTION}transport_url = {PUBLIC}\n"
    rows, use = examine(tmp_path, conf, name="aodh/aodh.conf")
    assert [each.result for each in rows] == ["ok", "ok", "ok"]
    assert "transport_url sends to /run/relay/ingest.sock" in rows[-1].finding
    assert use == Use([SOCKETS.public[0]], True, frozenset({TRANSPORTS}))
    assert not examine(tmp_path, conf, name="blazar/blazar.conf")[1].sends


def test_service_that_reads_here_may_send_elsewhere(tmp_path: Path) -> None:
    rows, use = examine(
        tmp_path,
        f"[DEFAULT]\ntransport_url = rabbit://h\n{SECTION}driver = messagingv2\n{URLS}{PUBLIC}",
    )
    assert [each.result for each in rows] == ["ok", "ok"]
    assert use == Use([SOCKETS.public[0]], False, frozenset({TRANSPORTS}))
    rows, use = examine(tmp_path, f"{DRIVER}{URLS}{PUBLIC}")
    assert [each.result for each in rows] == ["ok", "ok", "ok"]
    assert use == Use([SOCKETS.public[0]], True, frozenset({TRANSPORTS, NOTIFY_DRIVERS}))


def test_long_texts_and_many_urls_are_bounded(tmp_path: Path) -> None:
    rows, _ = examine(
        tmp_path, f"[{'s' * 9999}]\n{'o' * 9999}_transport_url = unix:///x\n{SECTION}"
    )
    assert max(map(len, rows[-1])) > 9999
    assert max(map(len, rows[-1].shortened())) == MAX_TEXT + len("...")
    rows, _ = examine(tmp_path, "[notification]\n" + f"messaging_urls = {PUBLIC}\n" * 5000)
    assert len(rows) == MAX_URLS + len(["file", "driver"])
    assert (rows[0].result, rows[0].finding) == (
        "skipped",
        "it has 4980 URLs more than are checked",
    )


def test_consumer_may_read_from_several_relays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "RUNTIME_DIR", os.fspath(tmp_path))
    other = tmp_path / "notifications.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(other))
    rows, use = examine(tmp_path, f"{URLS}unix://{other}\nmessaging_urls = {PUBLIC}")
    assert [each.result for each in rows] == ["ok", "ok", "ok"]
    assert use.reads == [SOCKETS.public[0]]
    rows, use = examine(tmp_path, f"{URLS}unix://{other}")
    assert [each.result for each in rows] == ["ok", "failed"]
    assert f"relayctl --runtime-dir {tmp_path} doctor" in rows[1].advice


def test_unknown_limits_are_not_compared(tmp_path: Path) -> None:
    rows, _ = examine(tmp_path, f"{URLS}{PUBLIC}?hold=9999&window=65536", None)
    assert [each.result for each in rows] == ["ok", "ok"]


def test_cost_of_a_window_is_that_of_the_relay() -> None:
    assert WINDOW_COST == UNFINISHED_COST


PARTS: Sequence[str] = (
    *("unix:", "UNIX:", "unix+x:", "unixx:", "/", "//", "///", "/run/a", "run", "?", "&", "#", ","),
    *("group=", "window=", "hold=", "a", "-", "0", "1", "70000", "nan", "inf", "1_0", "%00", "%2F"),
    *("%FF", "%20", "@", ":", "[", "]", "\N{GREEK SMALL LETTER ALPHA}", "=", ";", " ", "x" * 108),
)


@given(st.lists(st.sampled_from(PARTS), max_size=12), st.booleans())
@example(["///run/a", "?", "group=", "&", "window=", "0"], True)
@example(["///run/a", "?", "group=", "&", "window=", "0"], False)
@example(["//", ",", "/run/a"], False)
def test_url_is_refused_exactly_if_the_transport_does(parts: list[str], is_default: bool) -> None:
    text = "".join(["unix:", *parts])
    found = transport_url.parse(text, is_default=is_default)
    conf = cfg.ConfigOpts()
    conf([])
    TransportURL.parse(conf, "unix:///other")  # It registers the option.
    conf.set_override("transport_url", text if is_default else "unix:///other")
    try:
        url = TransportURL.parse(conf, text)
        driver = UnixTransportDriver(conf, url)
    except (InvalidTransportURL, ValueError):
        assert found is not None
        assert found.problem
    else:
        assert found is not None
        assert not found.problem
        driver.cleanup()
