# SPDX-License-Identifier: Apache-2.0
"""What of the library can be passed to another process."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from notif_relay import (
    BadFilter,
    Gap,
    InvalidRecord,
    Notification,
    PermissionDenied,
    Redelivered,
    RelayError,
    RelayUnavailable,
    SubscriptionRefused,
    UnreadableRecord,
    WrongProcess,
    aio,
    subscribe,
)
from notif_relay.errors import RecordTooLarge

ERRORS = [
    RelayError("text"),
    BadFilter("text"),
    InvalidRecord("reason"),
    PermissionDenied("/path", "group", "user"),
    RecordTooLarge(101, 100),
    RelayUnavailable("/path", "reason", running=False),
    SubscriptionRefused("/path", "reason", is_permanent=True),
    UnreadableRecord(100, "reason"),
    WrongProcess("/path", 1, 2),
]

COPIES = pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
    ids=["copy", "deepcopy", "pickle"],
)


@COPIES
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_reaches_another_process(error: RelayError, copied: Any) -> None:
    """A pool of multiprocessing hangs if it cannot read the exception of a worker."""
    received = copied(error)
    assert type(received) is type(error)
    assert str(received) == str(error)
    assert vars(received) == vars(error)


@COPIES
@pytest.mark.parametrize("kind", [Notification, Gap, Redelivered])
def test_notification_reaches_another_process(kind: type[Notification], copied: Any) -> None:
    finished: list[int] = []
    notification = kind(b'{"event_type": "a", "priority": "INFO"}\n')
    notification.attach(finished.append, 7)
    received = copied(notification)
    assert type(received) is kind
    assert received.event_type == "a"
    received.done()
    assert finished == ([7] if received is notification else [])


@COPIES
@pytest.mark.parametrize("make", [subscribe, aio.subscribe], ids=["threads", "asyncio"])
def test_subscriber_cannot_be_copied(make: Any, tmp_path: Path, copied: Any) -> None:
    subscriber = make(tmp_path / "socket", timeout=1)
    with pytest.raises(TypeError, match="subscribe in the process that reads"):
        copied(subscriber)
    subscriber.close()
