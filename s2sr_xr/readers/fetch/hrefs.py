"""Addresses in catalogues: which file or URL they mean, and which are not followed.

Whoever writes an item writes its addresses. An item from a remote catalogue that points
to a local file wants something that is not its business, so it is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from s2sr_xr.errors import ReadError
from s2sr_xr.readers.fetch.address import is_remote, without_query
from s2sr_xr.readers.fetch.signing import PLANETARY_COMPUTER

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["absolute", "alternative", "path_of", "public", "signer_of"]

PUBLIC: Mapping[str, str] = {
    "s3://sentinel-cogs/": "https://sentinel-cogs.s3.us-west-2.amazonaws.com/",
    "s3://e84-earth-search-sentinel-data/": (
        "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/"
    ),
}
"""Buckets that everybody may read, and where."""

CLOSED: Mapping[str, str] = {
    "sentinel-s2-l1c": "is requester-pays: reading costs its reader money, and keys",
    "sentinel-s2-l2a": "is requester-pays: reading costs its reader money, and keys",
    "eodata": "needs keys of the Copernicus Data Space",
}
"""Buckets known to need credentials, and why."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):")


def path_of(place: str) -> str:
    """Return the path that a ``file:`` URL names; anything else as it is.

    >>> path_of("file:///data/a%20b.json"), path_of("https://host/a.json")
    ('/data/a b.json', 'https://host/a.json')
    """
    return unquote(urlsplit(place).path) if place.lower()[:5] == "file:" else place


def public(href: str) -> str:
    """Return the https address of an object in a bucket that everybody may read.

    >>> public("s3://sentinel-cogs/a/B04.tif")
    'https://sentinel-cogs.s3.us-west-2.amazonaws.com/a/B04.tif'
    >>> public("s3://elsewhere/B04.tif")
    's3://elsewhere/B04.tif'
    """
    for bucket, place in PUBLIC.items():
        if href.startswith(bucket):
            return place + quote(href.removeprefix(bucket))
    return href


def alternative(asset: Mapping[str, Any]) -> str:
    """Return the address of an asset that can be opened, of those that it has.

    >>> alternate = {"https": {"href": "https://host/B04.jp2"}}
    >>> alternative({"href": "s3://eodata/B04.jp2", "alternate": alternate})
    'https://host/B04.jp2'
    """
    first = public(str(asset.get("href", "")))
    if not _is_bucket(first):
        return first
    others = asset.get("alternate")
    for other in others.values() if isinstance(others, Mapping) else ():
        href = public(str(other.get("href", ""))) if isinstance(other, Mapping) else ""
        if is_remote(href):
            return href
    return first


def absolute(href: str, *, place: str, own: str, item: str, band: str) -> str:
    """Return an address as it is opened.

    Parameters
    ----------
    href
        As it stands in the item.
    place
        Path or URL where the item was found, which relative addresses count from;
        empty where unknown.
    own
        The item's own idea of where it is; empty if it has none.
    item, band
        Whose it is, for the error.

    Raises
    ------
    ReadError
        It has no place to count from, needs credentials, or leads from a remote item to
        a local file.
    """
    where = {"item": item, "band": band, "href": without_query(href)}
    name = f"{band} of {item}"
    href, place = public(href), public(place)
    if is_remote(href) or href.startswith("<") or not href:
        return href
    if _is_bucket(href):
        raise ReadError(f"{name} is in {_closed(href)} ({href}).", **where)
    if _is_far(href):
        return href
    local = href.lower().startswith("file:") or href.startswith("/")
    if _is_far(place):
        if local:
            raise ReadError(_refused(name, href, without_query(place)), **where)
        if not is_remote(place):
            raise ReadError(
                f"{name} has the relative address {href!r}, and the item is in "
                f"{_closed(place)}.",
                **where,
            )
        return urljoin(without_query(place), href)
    if not place and not local:
        raise ReadError(
            f"{name} has the relative address {href!r}, and the item does not say "
            "where it was found. Open it by its path, or use item.set_self_href(...).",
            **where,
        )
    path = Path(place).absolute().parent / path_of(href)
    if _is_far(own) and not _below(path, Path(place).absolute().parent):
        raise ReadError(_refused(name, href, without_query(own)), **where)
    return href if local else str(path)


def signer_of(href: str, links: Sequence[Mapping[str, Any]]) -> str | None:
    """Return who signs an address: None where it is readable as it stands.

    Parameters
    ----------
    href
        An absolute address.
    links
        The links of its item, which name the catalogue.
    """
    host = urlsplit(href).hostname or "" if is_remote(href) else ""
    account, _, domain = host.partition(".")
    if domain != "blob.core.windows.net":
        return None
    of_item = (urlsplit(str(k.get("href"))).hostname for k in links)
    known = account == "sentinel2l2a01"
    if known or "planetarycomputer.microsoft.com" in of_item:
        return PLANETARY_COMPUTER
    return None


def _is_far(text: str) -> bool:
    """Return whether an address has a scheme, other than that of files."""
    scheme = _SCHEME.match(text)
    return scheme is not None and scheme[1].lower() != "file"


def _is_bucket(href: str) -> bool:
    return href.lower().startswith(("s3:", "gs:", "az:", "abfs:"))


def _closed(href: str) -> str:
    bucket = urlsplit(href).netloc
    why = CLOSED.get(bucket, "is not known to be public: it may need credentials")
    return (
        f"the bucket {bucket}, which {why}. Only https and local files are read here: "
        "use an https address (public, or signed by whoever has the keys), a catalogue "
        "that has one, or download the product and open it"
    )


def _below(path: Path, root: Path) -> bool:
    """Return whether a path stays under a folder, links followed."""
    real = Path(os.path.realpath(path))
    return real.is_relative_to(os.path.realpath(root))


def _refused(name: str, href: str, place: str) -> str:
    return (
        f"{name} points to the local file {href!r}, but its item comes from {place}: a "
        "catalogue elsewhere has no business with the files here. If they are yours, "
        "take the self link out of the item, or put them into its folder."
    )
