"""What a job is given: items of any kind, each with the reader that opens it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from s2sr_xr.errors import GridError, ReadError, redact
from s2sr_xr.readers.any import is_json, open_any, read_json
from s2sr_xr.readers.fetch.hrefs import path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = ["Entry", "file_name", "listed", "stem"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of a job, not opened yet."""

    id: str
    """What names it, and its store."""

    source: Any
    """What opens it: a path, a URL, or the JSON of a STAC item."""

    fault: Exception | None = None
    """Why it cannot be opened, where that is known already."""

    found_at: str = ""
    """Path or URL of the file that an item's JSON stood in; empty where unknown."""

    def open(
        self, *, bands: Sequence[str] | None = None, chunks: int = 2196
    ) -> xr.DataTree:
        """Return it as a lazy tree; see `open_any`."""
        if self.fault is not None:
            raise self.fault
        return open_any(self.source, bands=bands, chunks=chunks, found_at=self.found_at)


def listed(items: Any) -> list[Entry]:  # noqa: ANN401 - see `s2sr_xr.batch`
    """Return the items of a job, each once. Nothing but JSON is read.

    An item that is not understood is an entry with its fault: it fails when its turn
    comes, and the others do not.

    Raises
    ------
    ReadError
        `items` is a file that cannot be read.
    GridError
        There is none, or one appears more than once.
    """
    if isinstance(items, str | os.PathLike):
        items = path_of(str(items))
    if isinstance(items, str) and is_json(items):
        found = list(_in_json(read_json(items), items))
    else:
        found = list(_flat(items))
    if not found:
        raise GridError(
            "There are no items: the list is empty, or the search found nothing or was "
            "consumed."
        )
    seen: dict[str, str] = {}
    for entry in found:
        name = file_name(entry.id).casefold()
        if name in seen:
            twin = "" if seen[name] == entry.id else f", as {seen[name]}"
            raise GridError(
                f"Item {entry.id} appears more than once among the items{twin}: both "
                "would be written to one store. Drop one."
            )
        seen[name] = entry.id
    return found


def file_name(item: str) -> str:
    """Return the name of an item's store, safe on every file system.

    >>> file_name("S2B_MSIL1C_20250104")
    'S2B_MSIL1C_20250104'
    >>> file_name("../../etc/x")
    'etc_x-56da1a2e'
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", item).strip("._")[:150]
    if plain == item:
        return plain
    return f"{plain}-{hashlib.sha256(item.encode()).hexdigest()[:8]}"


def _flat(items: Any) -> Iterator[Entry]:  # noqa: ANN401 - whatever holds items
    if isinstance(items, str | os.PathLike):
        yield from _at(str(items))
    elif isinstance(items, Mapping):
        yield from _in_json(items, "")
    elif hasattr(items, "get_items") and hasattr(items, "to_dict"):
        raise GridError(
            f"{type(items).__name__} is a catalogue; give the items of it that are "
            "meant: batch(catalogue.get_items(recursive=True), ...)."
        )
    elif hasattr(items, "to_dict"):
        # Hrefs as they are: pystac would make them relative to the item's place.
        yield from _in_json(items.to_dict(transform_hrefs=False), "")
    elif callable(found := getattr(items, "items_as_dicts", None)):
        yield from _flat(found())  # a search of pystac-client
    elif isinstance(items, Iterable):
        for item in items:
            yield from _flat(item)
    else:
        raise GridError(
            f"{type(items).__name__} is not an item. Give STAC items, their dicts, a "
            "search, or paths of products."
        )


def _at(place: str) -> Iterator[Entry]:
    """Yield what lies at a path or URL."""
    place = path_of(place)
    if is_json(place):
        try:
            yield from _in_json(read_json(place), place)
        except ReadError as error:
            yield Entry(stem(place), place, error)
    else:
        yield Entry(stem(place), place)


def _in_json(said: Any, place: str) -> Iterator[Entry]:  # noqa: ANN401 - JSON
    """Yield the items of a document: an item, a collection, or a list of either."""
    if isinstance(said, Mapping) and said.get("type") == "FeatureCollection":
        said = said.get("features") or []
    if isinstance(said, list):
        for n, part in enumerate(said):
            yield from _part(part, place, n)
    elif isinstance(said, Mapping) and said.get("id"):
        facts = _placed(said, place)
        # A file is read again when it is opened: its text need not be kept.
        yield Entry(str(said["id"]), place or facts)
    else:
        raise ReadError(
            f"{redact(place) or 'A mapping'} is not a STAC item, a collection of "
            "items, or a list of paths."
        )


def _part(part: Any, place: str, n: int) -> Iterator[Entry]:  # noqa: ANN401 - JSON
    if isinstance(part, str):
        part = path_of(part)
        near = Path(place).parent / part if place and "://" not in part else part
        yield from _at(str(near))
    elif isinstance(part, Mapping) and part.get("id"):
        yield Entry(str(part["id"]), _placed(part, place), found_at=_where(place))
    else:
        fault = ReadError(f"Item {n} of {redact(place) or 'the list'} has no id.")
        yield Entry(f"item-{n}", part, fault)


def _placed(facts: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Return an item that says where it was found, unless it says so itself."""
    from s2sr_xr.readers.item import links_of

    links = links_of(facts)
    own = [str(k.get("href")) for k in links if k.get("rel") == "self"]
    # What a catalogue elsewhere says of itself stays: it may not name files here.
    if not place or any("://" in href for href in own):
        return facts
    others = [k for k in links if k.get("rel") != "self"]
    return {**facts, "links": [*others, {"rel": "self", "href": _where(place)}]}


def _where(place: str) -> str:
    """Return a path as an absolute one; URLs, and no place, as they are."""
    return place if "://" in place or not place else str(Path(place).absolute())


def stem(place: str) -> str:
    """Return the name of the product at a place.

    >>> stem("/data/S2B_MSIL1C_20250104.SAFE/")
    'S2B_MSIL1C_20250104'
    """
    path = urlsplit(place).path if "://" in place else place
    name = path.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    for end in (".json", ".geojson", ".zip", ".SAFE", ".zarr", ".xml"):
        if name.lower().endswith(end.lower()):
            name = name[: -len(end)]
    return name
