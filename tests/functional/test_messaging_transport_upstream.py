# SPDX-License-Identifier: Apache-2.0
"""Run oslo.messaging's own functional tests of notification transports unchanged."""

from __future__ import annotations

import json

from support.relay import RunningRelay
from support.scripts import Scripts

RUN = """
import json
import os
import sys
import unittest
import warnings

warnings.simplefilter("ignore")
os.environ["NOTIFY_TRANSPORT_URL"] = "unix://" + sys.argv[1]
from oslo_messaging.tests.functional.test_functional import NotifyTestCase

result = unittest.TestResult()
unittest.defaultTestLoader.loadTestsFromTestCase(NotifyTestCase).run(result)
failed = [test.id().rpartition(".")[2] for test, _ in result.errors + result.failures]
json.dump([result.testsRun, len(result.skipped), failed], sys.stdout)
"""


def test_upstream_tests_pass(scripts: Scripts, relay: RunningRelay) -> None:
    script = scripts.run("-W", "ignore", "-c", RUN, relay.public)
    run, skipped, failed = json.loads(script.finish())
    assert run >= 7
    assert skipped == 0
    assert failed == []
