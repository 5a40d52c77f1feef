# SPDX-License-Identifier: Apache-2.0
"""rsyslog and syslog-ng, installed or extracted by `make test`, with one configuration file."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from support.waiting import TIMEOUT, kill

ROOT = Path(__file__).parents[2] / ".syslog/root"

LIBRARIES = sorted({os.fspath(each.parent) for each in ROOT.glob("**/lib/*/lib*.so.*")})
"""Directories of the extracted libraries."""

REQUIRED = os.environ.get("NOTIF_RELAYD_SYSLOG_TESTS") == "required"


def find(name: str) -> tuple[str | None, bool]:
    """Return the path of a program, and whether it was extracted."""
    extracted = ROOT / "usr/sbin" / name
    if extracted.exists():
        return os.fspath(extracted), True
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin"), False


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test if a program is missing, except in CI."""
    return pytest.mark.skipif(
        find(name)[0] is None and not REQUIRED, reason=f"{name} is missing; make test downloads it"
    )


class LogDaemon:
    """A log daemon with one configuration file, and its files in one directory."""

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        program, self._is_extracted = find(self.name)
        assert program is not None, f"{self.name} is missing"
        self._program = program
        self._configuration = directory / f"{self.name}.conf"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LogDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            kill(self._process)

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
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        """Stop the daemon as its service does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(TIMEOUT) == 0

    def _environment(self) -> dict[str, str]:
        if not self._is_extracted:
            return dict(os.environ)
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(LIBRARIES)}

    def _modules(self, pattern: str) -> str:
        """Return the directory of the modules, which `pattern` finds below the root."""
        [found] = (ROOT if self._is_extracted else Path("/")).glob(pattern)
        return os.fspath(found)


class Rsyslog(LogDaemon):
    name = "rsyslogd"

    def arguments(self) -> list[str]:
        modules = self._modules("usr/lib/*/rsyslog")
        pid = self.directory / "rsyslogd.pid"
        return ["-n", "-f", f"{self._configuration}", "-i", f"{pid}", "-M", modules]


class SyslogNg(LogDaemon):
    name = "syslog-ng"

    def configure(self, text: str) -> None:
        """Write the configuration, which must begin with the version of the program."""
        shown = subprocess.run(
            [self._program, "--version"],
            env=self._environment(),
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
        modules = self._modules("usr/lib/syslog-ng/[0-9]*")
        options = [f"--{option}={path}" for option, path in files.items()]
        return ["--foreground", "--no-caps", f"--module-path={modules}", *options]
