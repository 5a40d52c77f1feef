# SPDX-License-Identifier: Apache-2.0
"""keystone under gunicorn with two workers, which notifies by both `log` and `unix`.

A worker calls both drivers for each notification. So the relay must have exactly what keystone's
log contains, byte for byte.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from support.relay import RunningRelay
from support.services import program, run_to_end
from support.web_services import (
    GUNICORN,
    NOTIFYING,
    WORKERS,
    WebService,
    logged,
    running_web_service,
)

PASSWORD = "the password of the administrator"
WRONG = "another password"

CONFIGURATION = """
[database]
connection = sqlite:///{directory}/keystone.db
[identity]
password_hash_rounds = 4
[fernet_tokens]
key_repository = {directory}/fernet
[DEFAULT]
log_file = {directory}/keystone.log
"""


class Keystone:
    """keystone's API."""

    def __init__(self, url: str) -> None:
        self._service = WebService(url)
        self._token = ""

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any, Any]:
        """Send a request with the token, and return the status, the headers and the body."""
        return self._service.request(method, path, body, X_Auth_Token=self._token)

    def sign_in(self, user: str, password: str) -> int:
        """Request a token, which later requests use, and return the status."""
        user_in_domain = {"name": user, "domain": {"id": "default"}, "password": password}
        project = {"name": "admin", "domain": {"id": "default"}}
        identity = {"methods": ["password"], "password": {"user": user_in_domain}}
        body = {"auth": {"identity": identity, "scope": {"project": project}}}
        status, headers, _ = self.request("POST", "/v3/auth/tokens", body)
        self._token = headers.get("X-Subject-Token", self._token)
        return status

    def create(self, kind: str, **fields: object) -> str:
        """Create an object, and return its id."""
        status, _, body = self.request("POST", f"/v3/{kind}s", {kind: fields})
        assert status == 201, body
        return str(body[kind]["id"])

    def update(self, kind: str, identifier: str, **fields: object) -> None:
        status, _, body = self.request("PATCH", f"/v3/{kind}s/{identifier}", {kind: fields})
        assert status == 200, body

    def delete(self, kind: str, identifier: str) -> None:
        status, _, body = self.request("DELETE", f"/v3/{kind}s/{identifier}")
        assert status == 204, body


@contextmanager
def running_keystone(relay: RunningRelay) -> Iterator[Keystone]:
    """Set up keystone and run it until the end of the block."""
    directory = relay.directory
    configuration = directory / "keystone.conf"
    text = CONFIGURATION + NOTIFYING
    configuration.write_text(text.format(directory=directory, public=relay.public))
    manage = program("keystone-manage"), "--config-file", os.fspath(configuration)
    run_to_end(*manage, "db_sync")
    ids = "--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())
    run_to_end(*manage, "fernet_setup", *ids)
    run_to_end(*manage, "bootstrap", OS_BOOTSTRAP_PASSWORD=PASSWORD)
    application = "keystone.wsgi.api:application"
    files = os.fspath(configuration)
    with running_web_service(
        GUNICORN, application, directory, OS_KEYSTONE_CONFIG_FILES=files
    ) as url:
        yield Keystone(url)


def use_objects(keystone: Keystone, number: int) -> None:
    """Create, change and delete projects and users."""
    for each in range(number):
        project = keystone.create("project", name=f"project {each} \u00fc", domain_id="default")
        user = keystone.create("user", name=f"user {each}", password=WRONG, email="\U0001f600")
        keystone.update("user", user, description="\u2028 \x7f")
        keystone.update("project", project, enabled=False)
        keystone.delete("user", user)
        keystone.delete("project", project)


def test_relay_receives_what_keystone_logs(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber, running_keystone(relay) as keystone:
        # At the same time: keystone writes nothing for an unknown user, which SQLite would refuse.
        with ThreadPoolExecutor(4) as executor:
            tried = [executor.submit(keystone.sign_in, "unknown", WRONG) for _ in range(40)]
        assert {each.result() for each in tried} == {401}
        assert len(relay.request("producers")) == WORKERS
        assert keystone.sign_in("admin", WRONG) == 401
        assert keystone.sign_in("admin", PASSWORD) == 201
        use_objects(keystone, 5)
        expected = logged(relay.directory / "keystone.log")
        received = subscriber.lines(len(expected))
        assert relay.status()["records_received"] == len(expected)
        assert sorted(received) == sorted(expected)
        check_events(received)


def check_events(received: list[bytes]) -> None:
    """Check the number of notifications of each kind, and that none contains a password."""
    events = Counter(json.loads(line)["event_type"] for line in received)
    expected = {
        "identity.authenticate": 41,  # the failed ones: the default of notification_opt_out
        "identity.project.created": 6,  # one by the bootstrap
        "identity.project.updated": 5,
        "identity.project.deleted": 5,
        "identity.user.created": 6,
        "identity.user.updated": 5,
        "identity.user.deleted": 5,
    }
    assert expected.items() <= events.items(), events
    assert not any(WRONG.encode() in line or PASSWORD.encode() in line for line in received)
