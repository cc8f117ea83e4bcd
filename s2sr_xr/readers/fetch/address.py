"""Addresses: remote or local, and without what must not be shown."""

from __future__ import annotations

import re

__all__ = ["SCHEME", "is_remote", "without_query"]

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):")


def is_remote(href: str) -> bool:
    """Return whether an href is read over the network."""
    return href.lower().startswith(("http://", "https://"))


def without_query(href: str) -> str:
    """Return a URL without query, fragment, user and password; a path as it is.

    >>> without_query("https://me:pw@host:8/a.tif?sig=abc#x")
    'https://host:8/a.tif'
    """
    if not is_remote(href):
        return href
    scheme, rest = href.split("://", 1)
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
