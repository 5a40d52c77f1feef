# SPDX-License-Identifier: Apache-2.0
"""Runs atheris on one target, with the stored seeds.

atheris writes new inputs to a temporary directory, and a failing input to crash-* in the current
directory. Add a failing input to the seeds: a unit test runs all of them.
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
    """Fuzz for the given time or until an input fails; atheris ends the process."""
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
