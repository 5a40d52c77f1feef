# SPDX-License-Identifier: Apache-2.0
"""Options of access rules."""

from collections.abc import Callable

from oslo_config import cfg

from notif_relay.errors import BadFilter
from notif_relay.payload_pattern import PayloadPattern
from notif_relayd.access.accounts import group_id
from notif_relayd.access.policy import AccessRule
from notif_relayd.errors import StartError
from notif_relayd.records.filters import PAYLOAD, Filter, FilterError

ACCESS = "access:"
"""Prefix of the section of an access rule."""


def rule_options() -> list[cfg.Opt]:
    """Return the options of an access rule; its section is ``[access:NAME]``."""
    pattern = "as in the filter of a subscriber. Default: all"
    return [
        cfg.StrOpt(
            "group",
            metavar="GROUP",
            sample_default="monitoring",
            help="The group whose members may read the records that match.",
        ),
        cfg.ListOpt(
            "event_type",
            metavar="GLOBS",
            sample_default="compute.*,volume.*",
            help=f"Shell globs, one of which the event type must match, {pattern} event types.",
        ),
        cfg.ListOpt(
            "publisher_id",
            metavar="GLOBS",
            sample_default="nova-compute:*",
            help=f"Shell globs, one of which the publisher must match, {pattern} publishers.",
        ),
        cfg.StrOpt(
            "payload",
            metavar="JSON",
            sample_default='{"tenant_id": ["8d7a4c0e2b9f4f1c9d6e5a3b7c1f0e42"]}',
            help="Pattern that the payload must match: a JSON object, as in the filter of a "
            "subscriber. Records that the relay cannot decode do not match. Write $$ for a "
            "dollar sign. Default: the payload is not examined.",
        ),
    ]


def access_rule(
    conf: cfg.ConfigOpts, section: str, rule_name: str, name: Callable[[str, str], str]
) -> AccessRule:
    """Return a rule.

    Args:
        conf: the options.
        section: the section of the option access_rules.
        rule_name: a name in the value of this option.
        name: names an option in an error.

    Raises:
        StartError: the rule has no group, its group does not exist, or a pattern is invalid.
    """
    own_section = f"{ACCESS}{rule_name}"
    conf.register_opts(rule_options(), group=own_section)
    rule = conf[own_section]
    if not rule.group:
        raise StartError(
            f"{name(section, 'access_rules')}: the rule {rule_name!r} has no group: set group in "
            f"[{own_section}]"
        )
    patterns = {key: rule[key] for key in ("event_type", "publisher_id") if rule[key] is not None}
    if rule.payload is not None:
        try:
            patterns[PAYLOAD] = PayloadPattern.from_text(rule.payload).to_json()
        except BadFilter as error:
            raise StartError(f"{name(own_section, PAYLOAD)}: {error}; correct the value") from None
    try:
        return AccessRule(group_id(name(own_section, "group"), rule.group), Filter.parse(patterns))
    except FilterError as error:
        wrong = next((key for key in patterns if key in str(error)), "group")
        raise StartError(f"{name(own_section, wrong)}: {error}") from None
