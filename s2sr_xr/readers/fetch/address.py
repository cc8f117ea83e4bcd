"""Addresses of images: which are opened, under which name, and what may be shown."""

from __future__ import annotations

import os
import posixpath
import re
import uuid
from urllib.parse import unquote, urlsplit

from s2sr_xr.errors import ReadError

__all__ = [
    "SCHEME",
    "ZipMember",
    "gdal_name",
    "is_remote",
    "refusal",
    "without_query",
    "zip_member",
]

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


class ZipMember(str):
    """The address of an image inside a zip archive on disk, as ``archive!/member``.

    Only `zip_member` makes one, for a reader that has seen the archive's directory; the
    same text in a catalogue is the name of a file that does not exist.
    """

    __slots__ = ()

    @property
    def archive(self) -> str:
        """Path of the archive."""
        return self.partition("!/")[0]

    @property
    def member(self) -> str:
        """Name of the image inside."""
        return self.partition("!/")[2]


def zip_member(archive: str, member: str) -> ZipMember:
    """Return the address of a member of a zip archive.

    Raises
    ------
    ReadError
        A name that GDAL could take for something else.

    >>> zip_member("/data/a.zip", "A.SAFE/B02.jp2").member
    'A.SAFE/B02.jp2'
    """
    parts = member.split("/")
    bad = not archive.startswith("/") or archive.startswith("/vsi")
    if bad or "!/" in archive or set("{}") & set(archive) or {"", ".."} & set(parts):
        raise ReadError(
            f"{member!r} of {archive!r} cannot be read inside the archive; unpack it, "
            "or rename it without braces and exclamation marks."
        )
    return ZipMember(f"{archive}!/{member}")


def refusal(href: str) -> str | None:
    """Return why an href is not opened, None where it is.

    >>> refusal("/data/B02.jp2"), refusal("https://host/B02.tif?sig=abc")
    (None, None)
    """
    if isinstance(href, ZipMember):
        return None
    bare = href.strip()
    if not bare or bare.startswith("<"):
        return "has no address but text" if bare else "has no address"
    scheme = SCHEME.match(bare)
    if scheme and scheme[1].lower() not in {"http", "https", "file"}:
        return (
            f"has an address that begins with {scheme[1]}:; only local files and "
            "http(s) are read. Use the item's https alternative, or download it"
        )
    if not is_remote(href) and gdal_name(href).startswith("/vsi"):
        return "points into one of GDAL's virtual file systems; give a file or a URL"
    return None


def gdal_name(href: str) -> str:
    """Return a name under which GDAL opens an href that was not refused.

    For a remote href it is another one each time. GDAL caches by name, for the whole
    process, and does not ask whether the object changed: a try would see what an
    earlier one left. CPL_VSIL_CURL_NON_CACHED does not help: when one thread closes its
    handle it empties the cache of all handles of that name, and rasterio then fetches
    headers anew while it holds the GIL. A fragment is never sent to the server.
    """
    if isinstance(href, ZipMember):
        return f"/vsizip/{{{href.archive}}}/{href.member}"
    if is_remote(href):
        plain = href.partition("#")[0]
        return f"/vsicurl/{plain}#s2sr-{uuid.uuid4().hex}{_suffix(plain)}"
    is_url = href.lower().startswith("file:")
    path = unquote(urlsplit(href).path) if is_url else href
    # Absolute, so that no part of a name is taken for a driver's prefix.
    return os.path.abspath(path)  # noqa: PTH100 - GDAL takes names, not paths


def _suffix(href: str) -> str:
    """Return the suffix, which CPL_VSIL_CURL_ALLOWED_EXTENSIONS may ask for."""
    return posixpath.splitext(urlsplit(href).path)[1]
