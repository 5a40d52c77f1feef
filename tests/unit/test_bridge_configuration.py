# SPDX-License-Identifier: Apache-2.0
"""The command line and the configuration file of a bridge."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from notif_relayd_bridge import main
from notif_relayd_bridge.brokers.schemes import SCHEMES, Scheme
from notif_relayd_bridge.brokers.source import Selection
from notif_relayd_bridge.configuration import (
    Inbound,
    Outbound,
    Settings,
    SpoolSettings,
    Subscription,
    load,
)
from notif_relayd_bridge.errors import StartError
from notif_relayd_bridge.redaction import Redaction

URL = "test://user:s3cr3t@broker/"


pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.fixture(autouse=True)
def target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEMES, "test", Scheme("support.bridge_program", "test", ()))
    monkeypatch.setitem(
        SCHEMES, "absent", Scheme("absent_client.target", "rabbit", ("absent_client",))
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "region-1.conf"


def settings(config: Path, text: str, *arguments: str) -> Settings:
    config.write_text(text)
    return load(["--config-file", str(config), *arguments])


def error(config: Path, text: str, *arguments: str) -> str:
    with pytest.raises(StartError) as raised:
        settings(config, text, *arguments)
    assert "s3cr3t" not in str(raised.value)
    return str(raised.value)


def test_defaults_follow_from_the_name(config: Path) -> None:
    read = settings(config, f"[bridge]\ntarget = {URL}\n")
    assert read.name == "region-1"
    assert read.url == URL
    assert read.direction == Outbound(
        Subscription("/run/notif-relayd/notifications.sock", "bridge:region-1", 4096, 300.0),
        SpoolSettings("/var/lib/notif-relayd-bridge/region-1.sqlite", 256 * 1024 * 1024, 24 * 3600),
    )
    assert (read.check, read.once) == (False, False)
    assert "s3cr3t" not in repr(read)


def test_options_are_read(config: Path) -> None:
    text = (
        f"[DEFAULT]\ndebug = true\n[bridge]\nsource = unix:///tmp/n.sock\ntarget = {URL}\n"
        "spool = /tmp/s.sqlite\nspool_max_bytes = 10000000\nspool_max_age = 60\n"
        "event_type = compute.*, volume.*\npriority = error\npublisher_id = nova*\n"
        'payload = {"a": {"b": ["$$1"]},\n  "c": [{"range": [1, null]}]}\n'
        "group = g\nwindow = 7\nhold = 0.5\n[test]\nsize = 3\npassword = of-the-client\n"
    )
    read = settings(config, text, "--once")
    assert read.direction == Outbound(
        Subscription(
            *("/tmp/n.sock", "g", 7, 0.5),
            ["compute.*", "volume.*"],
            ["error"],
            ["nova*"],
            {"a.b": ["$1"], "c": [{"range": [1, None]}]},
        ),
        SpoolSettings("/tmp/s.sqlite", 10000000, 60),
    )
    assert read.conf.test.size == 3
    assert read.secrets() == ["of-the-client"]
    assert read.once


def test_defaults_of_the_other_direction(config: Path) -> None:
    read = settings(config, f"[bridge]\nsource = {URL}\n")
    assert read.url == URL
    assert read.direction == Inbound(
        Selection("notif-relayd-bridge-region-1"), "/run/notif-relayd/ingest.sock", 1024 * 1024
    )
    assert "s3cr3t" not in repr(read)


def test_options_of_the_other_direction_are_read(config: Path) -> None:
    text = (
        f"[bridge]\nsource = {URL}\ntarget = unix:///tmp/i.sock\ntopics = a.*, b\npool = p\n"
        "exchanges = nova\nmax_record_size = 2000000\n[test]\npassword = of-the-client\n"
    )
    read = settings(config, text, "--once")
    assert read.direction == Inbound(
        Selection("p", ("a.*", "b"), ("nova",)), "/tmp/i.sock", 2000000
    )
    assert read.secrets() == ["of-the-client"]


def test_status_socket_is_read(config: Path) -> None:
    text = f"[bridge]\ntarget = {URL}\n"
    assert settings(config, text).status_socket is None
    given = settings(config, f"{text}status_socket = /run/b.sock\n")
    assert given.status_socket == "/run/b.sock"
    for path in ("b.sock", f"/run/{'x' * 200}"):
        assert "[bridge] status_socket in" in error(config, f"{text}status_socket = {path}\n")


def test_references_are_limited(config: Path) -> None:
    chain = ("priority", "group", "spool", "status_socket", "source")
    lines = "".join(f"{option} = {f'${to}' * 40}\n" for option, to in itertools.pairwise(chain))
    assert "more than 20000 references" in error(config, f"[bridge]\ntarget = {URL}\n{lines}")
    own = error(config, f"[bridge]\ntarget = {URL}\nspool = $spool\n")
    assert "[bridge] spool in" in own
    assert "the value refers to itself" in own


def test_path_may_be_relative(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(f"[bridge]\ntarget = {URL}\n")
    monkeypatch.chdir(config.parent)
    assert load(["--config-file", config.name]).name == "region-1"


def test_second_configuration_file_is_an_error(config: Path) -> None:
    text = f"[bridge]\ntarget = {URL}\n"
    assert "pass one" in error(config, text, "--config-file", str(config))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "[bridge] target in FILE: not set; set a URL with one of rabbit://, kafka://"),
        ("[bridge]\ntarget =\n", "target in FILE: not set"),
        ("[bridge]\ntarget = user:s3cr3t@host\n", "target in FILE: the URL must begin with"),
        ("[bridge]\ntarget = s3cr3t://host\n", "target in FILE: the URL must begin with"),
        (f"[bridge]\ntarget = {URL}$s3cr3t\n", "[bridge] target in FILE: the value is invalid"),
        (f"[bridge]\ntarget = {URL}\nevents = x\n", "[bridge] events in FILE: unknown option"),
        (f"[bridge]\ntarget = {URL}\nprioritty = x\n", "did you mean priority?"),
        (f"[bridge]\ntarget = {URL}\n[brige]\n", "[brige] in FILE: unknown section; did you mean"),
        (f"[bridge]\ntarget = {URL}\n[kafka]\nx = 1\n", "[kafka] in FILE: unknown section"),
        (f"[bridge]\ntarget = {URL}\n[test]\nsise = 1\n", "did you mean size?"),
        (f"[bridge]\ntarget = {URL}\n[test]\nsize = s3cr3t\n", "[test] size in FILE: the value is"),
        (f"[DEFAULT]\ndebugg = 1\n[bridge]\ntarget = {URL}\n", "did you mean debug?"),
        (f"[bridge]\ntarget = {URL}\nwindow = many\n", "[bridge] window in FILE: "),
        (f"[bridge]\ntarget = {URL}\nwindow = 0\n", "[bridge] window in FILE: "),
        (f"[bridge]\ntarget = {URL}\nwindow = 70000\n", "[bridge] window in FILE: "),
        (f"[bridge]\ntarget = {URL}\nhold = -1\n", "[bridge] hold in FILE: "),
        (f"[bridge]\ntarget = {URL}\nhold = nan\n", "hold in FILE: it must be a finite number"),
        (f"[bridge]\ntarget = {URL}\nhold = -inf\n", "[bridge] hold in FILE: "),
        (
            "[bridge]\nsource = nats://host\n[nats]\nack_wait = nan\n",
            "[nats] ack_wait in FILE: it must be a finite number; correct the value",
        ),
        (f"[bridge]\ntarget = {URL}\nspool_max_bytes = 1\n", "[bridge] spool_max_bytes in FILE: "),
        (f"[bridge]\ntarget = {URL}\nspool_max_age =\n", "spool_max_age in FILE: the value is"),
        (f"[bridge]\ntarget = {URL}\nspool = x.sqlite\n", "spool in FILE: must be an absolute"),
        (f"[bridge]\ntarget = {URL}\ngroup = a b\n", "group must be 1 to 64 characters"),
        (f"[bridge]\ntarget = {URL}\npriority = urgent\n", "'URGENT' of priority matches no"),
        (f"[bridge]\ntarget = {URL}\npayload = {{\n", "[bridge] in FILE: payload is not JSON: "),
        (f"[bridge]\ntarget = {URL}\npayload = 1\n", "payload must be an object of paths"),
        (f'[bridge]\ntarget = {URL}\npayload = {{"a": 1}}\n', "FILE: payload path 'a' must have"),
        (f"[bridge]\ntarget = {URL}\npayload = $a\n", "[bridge] payload in FILE: "),
        (f"[bridge]\ntarget = {URL}\nsource = rabbit://u:s3cr3t@h\n", "in FILE: source and target"),
        (f"[bridge]\ntarget = {URL}\nsource = x://u:s3cr3t@h\n", "source in FILE: must be unix://"),
        (
            "[bridge]\nsource = unix:///a\ntarget = unix:///b\n",
            "source in FILE: the target is a re",
        ),
        ("[bridge]\ntarget = unix:///b\n", "source in FILE: the target is a relay"),
        (f"[bridge]\nsource = {URL}\ntarget = x://u:s3cr3t@h\n", "target in FILE: must be unix://"),
        (
            f"[bridge]\nsource = {URL}\nspool = /s\n",
            "spool in FILE: it is for bridges in the other",
        ),
        (f"[bridge]\nsource = {URL}\npayload = {{}}\n", "payload in FILE: it is for bridges in"),
        (f"[bridge]\ntarget = {URL}\npool = p\n", "pool in FILE: it is for bridges in the other"),
        (f"[bridge]\nsource = {URL}\npool = a b\n", "pool in FILE: a b is no valid name"),
        (f"[bridge]\nsource = {URL}\ntopics = a,,b\n", "topics in FILE: "),
        (f"[bridge]\nsource = {URL}\nmax_record_size = 1\n", "max_record_size in FILE: "),
        (f"[bridge]\nsource = {URL}\n[test]\nsize = 1\n", "[test] size in FILE: unknown option"),
        (f"[bridge]\ntarget = {URL}\nsource = unix://n.sock\n", "source in FILE: must be unix://"),
        (f"[bridge]\ntarget = {URL}\nsource = unix:///{'x' * 200}\n", "at most 107 bytes"),
        ("[bridge]\ntarget = absent://\n", "absent_client is not installed: run \"pip install '."),
        ("[bridge\n", "cannot parse FILE: line 1"),
        ("\0", "NUL character in line 1"),
    ],
)
def test_invalid_file_is_an_error(config: Path, text: str, expected: str) -> None:
    assert expected in error(config, text).replace(str(config), "FILE")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--config-file is missing; see notif-relayd-bridge --help"),
        (["--config-file"], "argument --config-file"),
        (["--config-file", "/nonexistent/x.conf"], "cannot read /nonexistent/x.conf: No such file"),
        (["--config-file", "/etc/hosts"], "/etc/hosts: the name of the file must be NAME.conf"),
        (["--config-file", "/tmp/a b.conf"], "must be NAME.conf"),
        (["--config-file", f"/tmp/{'x' * 58}.conf"], "1 to 57 characters"),
    ],
)
def test_invalid_command_line_is_an_error(arguments: list[str], expected: str) -> None:
    with pytest.raises(StartError) as raised:
        load(arguments)
    assert expected in str(raised.value)


def test_second_file_or_unknown_argument_is_an_error(config: Path) -> None:
    text = f"[bridge]\ntarget = {URL}\n"
    assert "pass one --config-file" in error(config, text, "--config-dir", str(config.parent))
    assert "did you mean --once?" in error(config, text, "--onec")


def test_environment_is_ignored(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_BRIDGE__WINDOW", "5")
    direction = settings(config, f"[bridge]\ntarget = {URL}\n").direction
    assert isinstance(direction, Outbound)
    assert direction.subscription.window == 4096


def test_check_prints_ok_or_the_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(f"[bridge]\ntarget = {URL}\nspool = {config.parent}/s.sqlite\n")
    assert main.main(["--config-file", str(config), "--check"]) == 0
    assert capsys.readouterr() == ("ok\n", "")
    config.write_text(f"[bridge]\ntarget = {URL}\nwindow = 0\n")
    assert main.main(["--config-file", str(config), "--check"]) == 1
    assert capsys.readouterr().err.startswith("notif-relayd-bridge: [bridge] window in ")
    assert list(config.parent.iterdir()) == [config]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("spool = DIR", "is not a regular file"),
        ("spool = DIR/missing/s", "No such file"),
        ("spool = DIR/fifo/s", "Not a directory"),
        ("status_socket = DIR/fifo", "is not a socket"),
        ("status_socket = DIR/missing/s", "No such file"),
        ("[DEFAULT]\nlog_file = DIR/fifo", "no process reads from this FIFO"),
        ("[DEFAULT]\nlog_dir = DIR/missing", "No such file"),
        ("[DEFAULT]\nlogging_default_format_string = %(x)s", "format of a log line"),
        ("[DEFAULT]\nlog_config_append = DIR", "not a regular file"),
        ("[DEFAULT]\nlog_config_append = DIR/region-1.conf", "log_config_append DIR/region-1"),
    ],
)
def test_check_and_start_find_what_cannot_be_written(
    config: Path, capsys: pytest.CaptureFixture[str], option: str, words: str
) -> None:
    os.mkfifo(config.parent / "fifo")
    text = f"[bridge]\ntarget = {URL}\nspool = DIR/s\n{option}\n"
    config.write_text(text.replace("DIR", str(config.parent)))
    before = sorted(config.parent.iterdir())
    for arguments in (["--check"], []):
        assert main.main(["--config-file", str(config), *arguments]) == 1
        *logged, line = capsys.readouterr().err.splitlines()
        assert words.replace("DIR", str(config.parent)) in line
        if arguments:
            assert (logged, sorted(config.parent.iterdir())) == ([], before)


WRONG_URLS = {
    "rabbit": (
        "u:s3cr3t@h:99999 u:s3cr3t@h:port u:s3cr3t/x@h u:x/s3cr3t@h u:s3cr3t u:s3cr3t#@h"
        " u:s3cr3t@h?x=s3cr3t u:s3cr3t@h/?ssl=s3cr3t u:x@h,u:s3cr3t@h:x u:s3cr3t[@h"
    ),
    "kafka": "u:s3cr3t@h:port u:s3cr3t u:s3cr3t@h/x u:s3cr3t@h?s3cr3t s3cr3t@h u:s3cr3t@[h",
    "nats": "u:s3cr3t@h:port u:s3cr3t u:s3cr3t@h/x u:s3cr3t@h#s3cr3t u:s3cr3t@,h u:s3cr3t@[h",
}


@pytest.mark.parametrize(
    "url", [f"{scheme}://{each}" for scheme, urls in WRONG_URLS.items() for each in urls.split()]
)
def test_error_about_wrong_url_has_no_password(
    config: Path, capfd: pytest.CaptureFixture[str], url: str
) -> None:
    config.write_text(f"[bridge]\ntarget = {url}\nspool = {config.parent}/s.sqlite\n")
    assert main.main(["--config-file", str(config), "--check"]) == 1
    written = "".join(capfd.readouterr())
    assert written.startswith("notif-relayd-bridge: ")
    assert "s3cr3t" not in written
    assert "***@HOST" not in written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "cannot connect to rabbit://user:pw@host:5672/",
            "cannot connect to rabbit://***@host:5672/",
        ),
        ("ACCESS_REFUSED for 'p@ss/word'", "ACCESS_REFUSED for '***'"),
        ("ACCESS_REFUSED for 'p%40ss%2Fword'", "ACCESS_REFUSED for '***'"),
        ("the key is of-the-client", "the key is ***"),
        ("no secret: http://host/a@b", "no secret: http://host/a@b"),
    ],
)
def test_password_is_redacted(text: str, expected: str) -> None:
    hide = Redaction("rabbit://user:p%40ss%2Fword@host/", ["of-the-client", "client"])
    assert hide(text) == expected


@pytest.mark.parametrize(
    "url",
    [
        "rabbit://u:other@h:1,u:s3cr3t@h:2/vhost",
        "kafka://u:s3cr3t@h:1,h:2",
        "kafka://u:s3cr3t@h/user@host",
        "kafka://u:s3cr3t,x@h:1,h:2",
        "nats://s3cr3t@h",
        "nats://s3cr3t/x@h",
    ],
)
def test_password_of_each_form_of_url_is_redacted(url: str) -> None:
    secret = "s3cr3t,x" if "," in url.partition("@")[0] else "s3cr3t"
    secret += "/x" * ("t/x" in url)
    assert Redaction(url)(f"login with {secret}") == "login with ***"


def test_sample_is_current() -> None:
    generator = str(Path(sys.executable).with_name("oslo-config-generator"))
    command = [generator, "--namespace", "notif_relayd_bridge"]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sample = Path(__file__).parents[2] / "etc/notif-relayd/bridge/NAME.conf.sample"
    assert sample.read_text() == fresh, f"regenerate it: {generator} --namespace {command[-1]}"
