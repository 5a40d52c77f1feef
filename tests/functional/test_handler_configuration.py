# SPDX-License-Identifier: Apache-2.0
"""The handler as services configure it, with oslo.messaging's log driver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.private_socket import PrivateSocket
from support.scripts import Scripts

SAMPLE = Path(__file__).parents[2] / "etc" / "notif-relayd" / "logging.conf"
DEFAULT_PATH = "/run/notif-relayd/ingest.sock"


@pytest.fixture
def sample(private: PrivateSocket, directory: Path) -> Path:
    """Return a copy of the sample file with the path of the test's socket."""
    text = SAMPLE.read_text()
    assert DEFAULT_PATH in text
    path = directory / "logging.conf"
    path.write_text(text.replace(DEFAULT_PATH, str(private.path)))
    return path


SERVICE = """
import logging, sys
sys.stderr = sys.stdout
from oslo_config import cfg
from oslo_log import log
import oslo_messaging

CONF = cfg.ConfigOpts()
log.register_options(CONF)
CONF([], project="nova", default_config_files=[])
CONF.set_override("log_config_append", sys.argv[1])
log.setup(CONF, "nova")

transport = oslo_messaging.get_notification_transport(CONF, url="fake://")
notifier = oslo_messaging.Notifier(transport, "nova-compute:host-1", driver="log")
notifier.info({}, "compute.metrics.update", {"load": float("nan")})
file = logging.FileHandler(sys.argv[2])
logging.getLogger("oslo.messaging.notification").addHandler(file)
payload = {"display_name": "gr\\u00fc\\u00df\\nGott", "admin_pass": "secret", "nodes": [1, None]}
for priority in ("debug", "info", "warn", "error", "critical"):
    getattr(notifier, priority)({}, "compute.instance.create.end", payload)
log.getLogger("nova.compute").info("a line of the service's own")
log.getLogger("nova.compute").debug("too much detail")
"""


def test_sample_file_relays_notifications_and_logs_the_rest(
    scripts: Scripts, private: PrivateSocket, sample: Path, directory: Path
) -> None:
    script = scripts.run("-W", "ignore", "-c", SERVICE, sample, directory / "file")
    with private.accept() as incoming:
        stream = incoming.read_to_end()
    assert stream == (directory / "file").read_bytes()
    records = [json.loads(line) for line in stream.splitlines()]
    priorities = [record["priority"] for record in records]
    assert priorities == ["DEBUG", "INFO", "WARN", "ERROR", "CRITICAL"]
    assert records[1]["publisher_id"] == "nova-compute:host-1"
    assert records[1]["event_type"] == "compute.instance.create.end"
    assert records[1]["payload"] == {
        "display_name": "grüß\nGott",
        "admin_pass": "***",
        "nodes": [1, None],
    }
    warning, line = script.finish().splitlines()
    # Once: oslo.log appends the exception being handled to a message.
    assert warning.count("NaN is not JSON") == 1
    assert line.endswith("INFO nova.compute [-] a line of the service's own")


LOADED_TWICE = """
import logging.config, sys
logging.config.fileConfig(sys.argv[1], disable_existing_loggers=False)
logger = logging.getLogger("oslo.messaging.notification.volume.create")
logger.info('{"event_type": "first", "priority": "INFO"}')
logging.config.fileConfig(sys.argv[1], disable_existing_loggers=False)
logger.info('{"event_type": "second", "priority": "INFO"}')
"""


def test_reloading_the_file_closes_the_old_handler(
    scripts: Scripts, private: PrivateSocket, sample: Path
) -> None:
    script = scripts.run("-c", LOADED_TWICE, sample)
    with private.accept() as incoming:
        assert incoming.read_to_end() == b'{"event_type": "first", "priority": "INFO"}\n'
    with private.accept() as incoming:
        assert incoming.read_to_end() == b'{"event_type": "second", "priority": "INFO"}\n'
    script.finish()


REFUSED = """
import logging.config, sys
try:
    logging.config.fileConfig(sys.argv[1], disable_existing_loggers=False)
except (TypeError, ValueError) as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("args", "argument"),
    [
        ('("", )', "path"),
        (f'("/{"x" * 200}", )', "path"),
        ('("/run/ingest.sock", -1)', "max_wait"),
        ('("/run/ingest.sock", "0.01")', "max_wait"),
        ('("/run/ingest.sock", 0.01, 3)', "max_record_size"),
    ],
)
def test_invalid_argument_is_an_error_at_load_time(
    scripts: Scripts, private: PrivateSocket, sample: Path, args: str, argument: str
) -> None:
    sample.write_text(sample.read_text().replace(f'("{private.path}",)', args))
    script = scripts.run("-c", REFUSED, sample)
    assert script.line().startswith(f"{argument} must be ")
    script.finish()


FROM_DICT = """
import logging.config, sys
logging.config.dictConfig({
    "version": 1,
    "handlers": {
        "relay": {
            "class": "notif_relay.RelayHandler",
            "path": sys.argv[1],
            "max_wait": 0.02,
            "max_record_size": 65536,
            "level": "INFO",
        }
    },
    "loggers": {"oslo.messaging.notification": {"handlers": ["relay"], "level": "DEBUG"}},
})
logger = logging.getLogger("oslo.messaging.notification.port.update.end")
logger.debug("below the handler's level")
logger.info('{"event_type": "e", "priority": "INFO"}')
"""


def test_handler_is_configured_from_a_dictionary(scripts: Scripts, private: PrivateSocket) -> None:
    script = scripts.run("-c", FROM_DICT, private.path)
    with private.accept() as incoming:
        assert incoming.read_to_end() == b'{"event_type": "e", "priority": "INFO"}\n'
    script.finish()
