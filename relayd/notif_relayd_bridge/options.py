# SPDX-License-Identifier: Apache-2.0
"""The options of the section [bridge]; importing this module registers nothing."""

from oslo_config import cfg

from notif_relay.group import MAX_WINDOW
from notif_relay.records import MAX_GAP_SIZE, MAX_RECORD_SIZE
from notif_relayd_bridge.brokers.source import MAX_MESSAGE_SIZE

BRIDGE = "bridge"

MIN_SPOOL_BYTES = 8 * 1024 * 1024
"""Minimum of spool_max_bytes: the maximum size of the unconfirmed messages. While a broker is slow,
these stay in the spool, even beyond its maximum."""


def bridge_options() -> list[cfg.Opt]:
    """Return the options of both directions."""
    return [
        cfg.StrOpt(
            "source",
            metavar="URL",
            secret=True,
            sample_default="unix:///run/notif-relayd/notifications.sock",
            help="Where notifications come from: unix:// and the absolute path of the relay's "
            "public socket, or a broker, with the scheme rabbit, kafka or nats. As in every "
            "option, $$ stands for a dollar sign.",
        ),
        cfg.StrOpt(
            "target",
            metavar="URL",
            secret=True,
            help="Broker that notifications are sent to, or unix:// and the absolute path of the "
            "relay's private socket if the source is a broker, by default "
            "unix:///run/notif-relayd/ingest.sock.",
        ),
        cfg.StrOpt(
            "status_socket",
            metavar="FILE",
            sample_default="/run/notif-relayd-bridge/NAME/status.sock",
            help="Socket on which relayctl and the exporter ask for the state of the bridge. "
            "Without the option, there is none if the directory of the default does not exist.",
        ),
    ]


def inbound_options() -> list[cfg.Opt]:
    """Return the further options of a bridge from a broker to a relay."""
    return [
        cfg.ListOpt(
            "topics",
            default=[],
            help="Topics or subjects, separated by commas, that are consumed. If empty, those to "
            "which services and other bridges send by default.",
        ),
        cfg.StrOpt(
            "pool",
            sample_default="notif-relayd-bridge-NAME",
            help="Name under which the broker stores the position of the bridge: a queue of "
            "RabbitMQ, a consumer group of Kafka, a durable consumer of JetStream. Bridges with "
            "one pool share the messages.",
        ),
        cfg.ListOpt(
            "exchanges",
            default=[],
            help="RabbitMQ only: exchanges, separated by commas, to which the queue is bound. If "
            "empty, those of the OpenStack services.",
        ),
        cfg.IntOpt(
            "max_record_size",
            default=MAX_RECORD_SIZE,
            min=MAX_GAP_SIZE,
            max=MAX_MESSAGE_SIZE,
            help="Maximum size of a record in bytes; at most max_record_size of the relay. A gap "
            "record takes the place of larger ones.",
        ),
    ]


def outbound_options() -> list[cfg.Opt]:
    """Return the further options of a bridge from a relay to a broker."""
    return [
        cfg.StrOpt(
            "spool",
            metavar="FILE",
            sample_default="/var/lib/notif-relayd-bridge/NAME.sqlite",
            help="Database for notifications while the broker is not available or too slow. Its "
            "directory must exist and belong to the user of the bridge.",
        ),
        cfg.IntOpt(
            "spool_max_bytes",
            default=256 * 1024 * 1024,
            min=MIN_SPOOL_BYTES,
            help="Maximum size of the spool in bytes. If it is exceeded, a gap record with the "
            "number of records takes the place of the oldest ones.",
        ),
        cfg.IntOpt(
            "spool_max_age",
            default=24 * 3600,
            min=1,
            help="Maximum age, in seconds, of a record in the spool. A gap record takes the place "
            "of older ones.",
        ),
        *_subscription_options(),
    ]


def _subscription_options() -> list[cfg.Opt]:
    return [
        cfg.ListOpt(
            "event_type",
            default=[],
            help="Patterns, separated by commas, of which one must match the event type. If empty, "
            "all notifications are sent.",
        ),
        cfg.ListOpt("priority", default=[], help="Likewise for the priority."),
        cfg.ListOpt("publisher_id", default=[], help="Likewise for the publisher."),
        cfg.StrOpt(
            "payload",
            metavar="JSON",
            sample_default='{"tenant_id": ["8d7a4c0e2b9f4f1c9d6e5a3b7c1f0e42"]}',
            help="Pattern that the payload must match: a JSON object, as in the filter of a "
            "subscriber. If empty, the payload is not examined.",
        ),
        cfg.StrOpt(
            "group",
            sample_default="bridge:NAME",
            help="Group of the relay to which the bridge belongs. Bridges with one group share its "
            "notifications, and each needs a spool of its own.",
        ),
        cfg.IntOpt(
            "window",
            default=4096,
            min=1,
            max=MAX_WINDOW,
            help="Maximum number of notifications that the bridge has neither delivered nor "
            "spooled.",
        ),
        cfg.FloatOpt(
            "hold",
            default=300.0,
            min=0,
            help="Time, in seconds, for which the relay keeps the place of the group while the "
            "bridge does not run; at most max_hold of the relay.",
        ),
    ]


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options that do not depend on the broker, for oslo-config-generator."""
    return [(BRIDGE, [*bridge_options(), *outbound_options(), *inbound_options()])]


def command_line() -> list[cfg.Opt]:
    """Return the options of the command line only."""
    return [
        cfg.BoolOpt(
            "check",
            default=False,
            help="Check the configuration and exit: print ok, or the error and exit with status "
            "1. Connects to nothing and creates no file.",
        ),
        cfg.BoolOpt(
            "once",
            default=False,
            help="Send what is in the relay's group and in the spool, or what is at the broker, "
            "and exit with status 0. If the broker or the relay is not available, exit with status "
            "1; what was read is then in the spool or still at the broker.",
        ),
    ]
