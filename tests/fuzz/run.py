# SPDX-License-Identifier: Apache-2.0
"""Runs atheris on one target, from the seeds that are kept.

What it finds on its way stays in a directory of its own; what crashes is written to the current
directory as crash-*. Put that among the seeds: a unit test runs all of them.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["notif_relayd", "notif_relay"]):
    from targets import TARGETS

SEEDS = Path(__file__).parent / "seeds"


def main() -> None:
    """Fuzz until the time is over or something is found; the fuzzer itself ends the process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    asked = parser.parse_args()
    found = tempfile.mkdtemp(prefix=f"fuzz-{asked.target}-")
    time = f"-max_total_time={asked.seconds}"
    options = ["-max_len=4096", "-rss_limit_mb=1024", "-verbosity=0", "-print_final_stats=1"]
    atheris.Setup(
        [sys.argv[0], time, *options, found, str(SEEDS / asked.target)], TARGETS[asked.target]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
