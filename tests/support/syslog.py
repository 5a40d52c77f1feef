# SPDX-License-Identifier: Apache-2.0
"""rsyslog and syslog-ng, extracted by `make test`, with one configuration file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from support.waiting import TIMEOUT, kill

ROOT = Path(__file__).parents[2] / ".syslog/root"

LIBRARIES = sorted({os.fspath(each.parent) for each in ROOT.glob("**/lib/*/lib*.so.*")})
"""Directories of the extracted libraries."""

ENVIRONMENT = {**os.environ, "LD_LIBRARY_PATH": ":".join(LIBRARIES)}

PROGRAMS = ROOT / "usr/sbin"

REQUIRED = os.environ.get("NOTIF_RELAYD_SYSLOG_TESTS") == "required"


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test if a program is missing, except in CI."""
    return pytest.mark.skipif(
        not (PROGRAMS / name).exists() and not REQUIRED,
        reason=f"{name} is missing; make test downloads it",
    )


class LogDaemon:
    """A log daemon with one configuration file, and its files in one directory."""

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._program = PROGRAMS / self.name
        assert self._program.exists(), f"{self.name} is missing"
        self._configuration = directory / f"{self.name}.conf"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LogDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            # A daemon that is killed leaves the programs that it has started.
            self._process.terminate()
            try:
                self._process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                kill(self._process)
                raise

    def arguments(self) -> list[str]:
        """Return the arguments of the program."""
        raise NotImplementedError

    def configure(self, text: str) -> None:
        """Write the configuration that the next start uses."""
        self._configuration.write_text(text)

    def start(self) -> None:
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *self.arguments()],
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        """Stop the daemon as its service does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(TIMEOUT) == 0


def modules(pattern: str) -> str:
    """Return the directory of the modules, which `pattern` finds below the root."""
    [found] = ROOT.glob(pattern)
    return os.fspath(found)


class Rsyslog(LogDaemon):
    name = "rsyslogd"

    def arguments(self) -> list[str]:
        found = modules("usr/lib/*/rsyslog")
        pid = self.directory / "rsyslogd.pid"
        return ["-n", "-f", f"{self._configuration}", "-i", f"{pid}", "-M", found]


class SyslogNg(LogDaemon):
    name = "syslog-ng"

    def configure(self, text: str) -> None:
        """Write the configuration, which must begin with the version of the program."""
        shown = subprocess.run(
            [self._program, "--version"],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
        [version] = re.findall(r"^Config version: (\S+)$", shown.stdout, re.MULTILINE)
        super().configure(f"@version: {version}\n{text}")

    def arguments(self) -> list[str]:
        files = {"cfgfile": self._configuration} | {
            option: self.directory / f"syslog-ng.{option}"
            for option in ("persist-file", "control", "pidfile")
        }
        found = modules("usr/lib/syslog-ng/[0-9]*")
        options = [f"--{option}={path}" for option, path in files.items()]
        return ["--foreground", "--no-caps", f"--module-path={found}", *options]
