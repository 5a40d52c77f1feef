# SPDX-License-Identifier: Apache-2.0
"""Removes passwords from texts that an operator reads: the log, errors and reasons of failures."""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

MIN_SECRET = 4
"""Minimum number of characters of a password that is searched for in a text; to replace a shorter
one would reveal it. Its place in a URL is known in any case."""

_in_url = re.compile(r"(?<=://)(?!USER:PASSWORD@)[^\s/@]*(?=@)")
"""The credentials in a URL, but not the words for them in messages about its form."""


class Redaction:
    """Removes the credentials in URLs, and certain passwords anywhere.

    Args:
        url: a URL with passwords.
        secrets: further passwords.
    """

    def __init__(self, url: str, secrets: Iterable[str] = ()) -> None:
        found = {*_passwords(url), *secrets}
        self._secrets = sorted((each for each in found if len(each) >= MIN_SECRET), key=len)

    def __call__(self, text: str) -> str:
        """Return a text in which asterisks replace passwords."""
        for each in reversed(self._secrets):  # One may be a part of a longer one.
            text = text.replace(each, "***")
        return _in_url.sub("***", text)


def _passwords(url: str) -> Iterator[str]:
    """Yield what may be a password in a URL, as it is there and decoded.

    The URL may be invalid, may have a login for each host, and may have characters in a password
    that should be encoded. A user without a password may be a token.
    """
    rest = url.partition("://")[2]
    for each in (rest, *rest.split(",")):
        for login in (each.partition("@")[0], each.rpartition("@")[0]):
            if len(login) < len(each):
                user, colon, password = login.partition(":")
                yield from {password if colon else user, unquote(password if colon else user)}
