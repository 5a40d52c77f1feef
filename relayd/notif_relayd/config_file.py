# SPDX-License-Identifier: Apache-2.0
"""Reads one configuration file with the parser of oslo.config, and bounds what it can cost."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from oslo_config import cfg

from notif_relayd.errors import StartError

MAX_SIZE = 1024 * 1024
"""Maximum size of a configuration file in bytes. A longer file is probably another one by mistake,
such as a log or a core dump, and parsing it would stop the relay for seconds."""

MAX_REFERENCES = 1000
"""Maximum number of references such as ``$option`` that are resolved for the values in all files.
oslo.config resolves one again wherever it occurs, so 40 at each of four levels are millions."""

MAX_RESOLUTIONS = 20 * MAX_REFERENCES
"""The same for a whole program, which reads each value several times."""

MAX_REFERENCED_LENGTH = 4096
"""Maximum number of characters of a value that is referred to; the maximum of a path."""


class ReferenceLimitError(ValueError):
    """The references in the configuration exceed a limit."""


def reference_limit(error: BaseException | None) -> ReferenceLimitError | None:
    """Return the error of this kind that oslo.config has replaced by `error`, if there is one."""
    while error is not None and not isinstance(error, ReferenceLimitError):
        error = error.__context__
    return error


class BoundedOpts(cfg.ConfigOpts):
    """Options of oslo.config that resolve a limited number of references.

    Args:
        references: the maximum from one parsing of the files to the next one.
    """

    def __init__(self, references: int = MAX_RESOLUTIONS) -> None:
        super().__init__()
        self.max_references = self.references_left = references

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Parse the command line and the files."""
        self.references_left = self.max_references
        super().__call__(*args, **kwargs)

    def mutate_config_files(self) -> Any:
        """Parse the files again."""
        self.references_left = self.max_references
        return super().mutate_config_files()

    class StrSubWrapper(cfg.ConfigOpts.StrSubWrapper):
        """Resolves references; oslo.config creates one for each text."""

        conf: "BoundedOpts"

        def __getitem__(self, key: str) -> Any:
            """Return the value of an option.

            Raises:
                ReferenceLimitError: a limit is exceeded. oslo.config replaces it by another error.
            """
            if self.conf.references_left == 0:
                raise ReferenceLimitError(
                    f"more than {self.conf.max_references} references to other options, including "
                    "those in the values that they refer to"
                )
            self.conf.references_left -= 1
            value = super().__getitem__(key)
            if len(str(value)) > MAX_REFERENCED_LENGTH:
                raise ReferenceLimitError(
                    f"a reference to {key}, which has more than {MAX_REFERENCED_LENGTH} characters"
                )
            return value


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One configuration file."""

    path: str
    sections: dict[str, dict[str, list[str]]]
    """Values by section and option; an option may be set several times."""

    @classmethod
    def read(cls, path: str) -> "ConfigFile":
        """Read and parse a file.

        Raises:
            StartError: it cannot be read, or is not a configuration file in UTF-8.
        """
        check_regular(path)
        with os_errors(path):
            sections: dict[str, dict[str, list[str]]] = {}
            try:
                with open(path, encoding="utf-8") as lines:
                    _check_text(path, lines.read())
                cfg.ConfigParser(path, sections).parse()
            except UnicodeDecodeError as error:
                raise StartError(
                    f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; convert it"
                ) from None
            except cfg.ParseError as error:
                raise StartError(
                    f"cannot parse {path}: line {error.lineno}: {error.msg}: {error.line or ''!r}"
                ) from None
        return cls(path, sections)


def check_regular(path: str) -> None:
    """Check that a path is a regular file of at most `MAX_SIZE`, or ``/dev/null``.

    A pipe or another device may block its reader, or have no end.

    Raises:
        StartError: it is not, or is missing.
    """
    with os_errors(path):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) and not os.path.samefile(path, os.devnull):
            raise StartError(f"{path} is not a regular file: replace it by one")
    if status.st_size > MAX_SIZE:
        raise StartError(
            f"{path} has {status.st_size} bytes, and a configuration file at most {MAX_SIZE}: "
            "correct the path"
        )


def _check_text(path: str, text: str) -> None:
    """Check that a file has no byte order mark, and no NUL, which no value can contain."""
    for character, name in (("\ufeff", "a byte order mark"), ("\0", "a NUL character")):
        if character in text:
            line = text.count("\n", 0, text.index(character)) + 1
            raise StartError(f"{path} contains {name} in line {line}: save it as plain UTF-8 text")


@contextlib.contextmanager
def os_errors(path: str) -> Iterator[None]:
    """Turn an error of the operating system into `StartError`, with a remedy."""
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOENT: "create it or correct the path",
            errno.EACCES: "give the user of the service permission to read it",
            errno.ELOOP: "correct the link",
        }.get(error.errno or 0, "correct the path")
        raise StartError(f"cannot read {path}: {error.strerror}; {remedy}") from error
