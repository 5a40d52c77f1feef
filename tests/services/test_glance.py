# SPDX-License-Identifier: Apache-2.0
"""glance under uWSGI with two workers, which notifies by both `log` and `unix`.

There is no keystone: glance takes the user from the headers that keystone's middleware would set.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.relay import RunningRelay
from support.services import ENVIRONMENT, program, run_to_end
from support.waiting import wait_until
from support.web_services import NOTIFYING, UWSGI, WebService, logged, running_web_service

IMAGES = 5

CONFIGURATION = """
[database]
connection = sqlite:///{directory}/glance.db
[glance_store]
default_backend = files
[files]
filesystem_store_datadir = {directory}/images
[os_glance_staging_store]
filesystem_store_datadir = {directory}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {directory}/tasks
[paste_deploy]
config_file = {directory}/paste.ini
flavor = keystone
[DEFAULT]
enabled_backends = files:file
log_file = {directory}/glance.log
"""

PIPELINES = ENVIRONMENT / "etc/glance/glance-api-paste.ini"

USER = {
    "X_Identity_Status": "Confirmed",
    "X_Project_Id": "project",
    "X_Roles": "admin,member",
    "X_User_Id": "user",
}


class Glance:
    """glance's API."""

    def __init__(self, url: str) -> None:
        self._service = WebService(url)

    def request(self, expected: int, method: str, path: str, body: object, kind: str) -> Any:
        """Send a request that has the expected status, and return the body of the answer."""
        status, _, answer = self._service.request(
            method, f"/v2/images{path}", body, Content_Type=kind, **USER
        )
        assert status == expected, answer
        return answer

    def create(self, name: str) -> str:
        """Create an image without data, and return its id."""
        body = {"name": name, "disk_format": "raw", "container_format": "bare"}
        return str(self.request(201, "POST", "", body, "application/json")["id"])

    def upload(self, image: str, data: bytes) -> None:
        self.request(204, "PUT", f"/{image}/file", data, "application/octet-stream")

    def download(self, image: str) -> object:
        return self.request(200, "GET", f"/{image}/file", None, "application/json")

    def rename(self, image: str, name: str) -> None:
        change = [{"op": "replace", "path": "/name", "value": name}]
        self.request(
            200, "PATCH", f"/{image}", change, "application/openstack-images-v2.1-json-patch"
        )

    def share(self, image: str, project: str) -> None:
        self.request(200, "POST", f"/{image}/members", {"member": project}, "application/json")

    def delete(self, image: str) -> None:
        self.request(204, "DELETE", f"/{image}", None, "application/json")


@contextmanager
def running_glance(relay: RunningRelay) -> Iterator[Glance]:
    """Set up glance and run it until the end of the block."""
    directory = relay.directory
    pipelines = PIPELINES.read_text().replace(" authtoken ", " ")
    (directory / "paste.ini").write_text(pipelines)
    configuration = directory / "glance-api.conf"
    text = CONFIGURATION + NOTIFYING
    configuration.write_text(text.format(directory=directory, public=relay.public))
    options = "--config-file", os.fspath(configuration)
    run_to_end(program("glance-manage"), *options, "db_sync")
    with running_web_service(
        UWSGI,
        "glance.wsgi.api:application",
        directory,
        OS_GLANCE_CONFIG_DIR=os.fspath(directory),
    ) as url:
        yield Glance(url)


def use_image(glance: Glance, number: int) -> None:
    """Create, upload, download, change, share and delete an image."""
    data = f"data of image {number}".encode()
    image = glance.create(f"image {number} \u00fc")
    glance.upload(image, data)
    assert glance.download(image) == data
    glance.rename(image, "\u2028 \x7f")
    glance.share(image, "another project")
    glance.delete(image)


EVENTS = {
    "image.create": 1,
    "image.prepare": 1,
    "image.upload": 1,
    "image.activate": 1,
    "image.send": 1,
    "image.update": 3,  # two by the upload
    "image.member.create": 1,
    "image.delete": 1,
}
"""Number of notifications of each kind that `use_image` causes."""


def test_relay_receives_what_glance_logs(relay: RunningRelay) -> None:
    number = IMAGES * sum(EVENTS.values())
    log = relay.directory / "glance.log"
    with relay.subscribe() as subscriber, running_glance(relay) as glance:
        for each in range(IMAGES):
            use_image(glance, each)
        received = subscriber.lines(number)
        # glance sends the data of a download before it emits image.send.
        wait_until(lambda: len(logged(log)) == number, f"{number} notifications in the log")
    assert sorted(received) == sorted(logged(log))
    assert relay.status()["records_received"] == number
    notifications = [json.loads(line) for line in received]
    assert {each["publisher_id"] for each in notifications} == {"image.localhost"}
    events = Counter(each["event_type"] for each in notifications)
    assert events == {name: IMAGES * times for name, times in EVENTS.items()}
