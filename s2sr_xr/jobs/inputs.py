"""What a job is given: items of any kind, each with the reader that opens it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from s2sr_xr.errors import GridError, ReadError, redact
from s2sr_xr.readers._diagnosis import is_remote, without_query
from s2sr_xr.readers._hrefs import path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = ["Entry", "file_name", "listed", "open_any"]

Kind = Literal["stac", "safe", "l1b", "eopf", "theia"]

_L1B = re.compile(r"S2[A-Z]_(?:MSIL1B|OPER_(?:PRD_)?MSI_?L1B)", re.IGNORECASE)
_THEIA = re.compile(r"SENTINEL2[A-Z]_.+_L2A|.+_MTD_ALL\.xml$", re.IGNORECASE)
_SAFE = re.compile(
    r"S2[A-Z]_(?:MSI|OPER|USER)|.+\.SAFE$|.+\.zip$|.*MTD_MSIL(?:1C|2A)\.xml$",
    re.IGNORECASE,
)
_BUCKETS = ("s3://", "gs://", "az://", "abfs://")


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
        return _open(self.source, self.found_at, bands, chunks)


def open_any(
    source: Any,  # noqa: ANN401 - see Parameters
    *,
    bands: Sequence[str] | None = None,
    chunks: int = 2196,
) -> xr.DataTree:
    """Return a product as a lazy tree, by the reader for its kind.

    Parameters
    ----------
    source
        A STAC item or search (object, dict, path or URL of its JSON), the path of a
        SAFE (L1B too), the path or href of an EOPF Zarr product, or the path of a Theia
        product.
    bands
        As in the readers; None: all that a model may take.
    chunks
        Side of a chunk in 10 m pixels, a multiple of 6.

    Returns
    -------
    xr.DataTree
        As the reader returns it. Of L1B all detectors, aligned to green by whole
        pixels, which reads a few windows of them.

    Raises
    ------
    ReadError
        It is nothing that is read here, or cannot be read.
    S2SRError
        As the reader raises.
    """
    return _open(source, "", bands, chunks)


def _open(
    source: Any,  # noqa: ANN401 - as open_any
    found_at: str,
    bands: Sequence[str] | None,
    chunks: int,
) -> xr.DataTree:
    """Open a source; relative hrefs of an item count from where it was found."""
    from s2sr_xr.readers._items import Found

    if isinstance(source, str | os.PathLike):
        source = path_of(str(source))
    kind = _kind(source)
    how: dict[str, Any] = {"bands": bands, "chunks": chunks}
    given: Any = Found(source, found_at) if found_at else source
    if kind == "stac":
        from s2sr_xr.readers.stac import open_stac

        return open_stac(given, **how)
    if kind == "eopf":
        from s2sr_xr.readers.eopf import open_eopf

        return open_eopf(given, **how)
    if kind == "theia":
        from s2sr_xr.readers.theia import open_theia

        return open_theia(source, **how)
    if kind == "l1b":
        from s2sr_xr.readers.l1b import align_to_green, open_l1b

        return align_to_green(open_l1b(source, chunks=chunks))
    from s2sr_xr.readers.safe import open_safe

    return open_safe(source, **how)


def listed(items: Any) -> list[Entry]:  # noqa: ANN401 - see `s2sr_xr.batch`
    """Return the items of a job, each once. Nothing but JSON is read.

    An item that cannot be told is an entry with its fault: it fails when its turn
    comes, and the others do not.

    Raises
    ------
    ReadError
        `items` is a file that cannot be read.
    GridError
        There is none, or one stands twice.
    """
    if isinstance(items, str | os.PathLike):
        items = path_of(str(items))
    if isinstance(items, str) and _is_json(items):
        found = list(_in_json(_read_json(items), items))
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
                f"Item {entry.id} stands twice among the items{twin}: both would be "
                "written to one store. Drop one."
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
            f"{type(items).__name__} is no item. Give STAC items, their dicts, a "
            "search, or paths of products."
        )


def _at(place: str) -> Iterator[Entry]:
    """Yield what lies at a path or URL."""
    place = path_of(place)
    if _is_json(place):
        try:
            yield from _in_json(_read_json(place), place)
        except ReadError as error:
            yield Entry(_stem(place), place, error)
    else:
        yield Entry(_stem(place), place)


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
            f"{redact(place) or 'A mapping'} is no STAC item, no collection of items, "
            "and no list of paths."
        )


def _part(part: Any, place: str, n: int) -> Iterator[Entry]:  # noqa: ANN401 - JSON
    if isinstance(part, str):
        part = path_of(part)
        beside = Path(place).parent / part if place and "://" not in part else part
        yield from _at(str(beside))
    elif isinstance(part, Mapping) and part.get("id"):
        yield Entry(str(part["id"]), _placed(part, place), found_at=_where(place))
    else:
        fault = ReadError(f"Item {n} of {redact(place) or 'the list'} has no id.")
        yield Entry(f"item-{n}", part, fault)


def _placed(facts: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Return an item that says where it was found, unless it says so itself."""
    from s2sr_xr.readers._items import links_of

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


def _read_json(place: str) -> Any:  # noqa: ANN401 - JSON
    from s2sr_xr.readers._items import _load

    return _load(place)[0]


def _is_json(place: str) -> bool:
    """Tell whether a place holds JSON: by its name, or as the answer of an API."""
    path = urlsplit(place).path.rstrip("/").lower()
    if path.endswith((".json", ".geojson")):
        return True
    return place.lower().startswith(("http://", "https://")) and not path.endswith(
        (".zarr", ".zip", ".safe")
    )


def _stem(place: str) -> str:
    """Return the name of the product at a place.

    >>> _stem("/data/S2B_MSIL1C_20250104.SAFE/")
    'S2B_MSIL1C_20250104'
    """
    path = urlsplit(place).path if "://" in place else place
    name = path.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    for end in (".json", ".geojson", ".zip", ".SAFE", ".zarr", ".xml"):
        if name.lower().endswith(end.lower()):
            name = name[: -len(end)]
    return name


def _kind(source: Any) -> Kind:  # noqa: ANN401 - see open_any
    """Return what opens a source, from its name alone where that tells."""
    if not isinstance(source, str | os.PathLike):
        facts = source if isinstance(source, Mapping) else {}
        if hasattr(source, "to_dict"):
            facts = source.to_dict(transform_hrefs=False)
        return _kind_of_item(facts)
    place = str(source)
    if _is_json(place):
        return _kind_of_item(_read_json(place))
    if place.lower().startswith(_BUCKETS) or _is_zarr(place):
        return "eopf"
    if is_remote(place):
        return "safe"  # whose reader says why it is not read from there
    path = Path(place)
    if not path.exists() and not any(p.suffix.lower() == ".zip" for p in path.parents):
        raise ReadError(f"There is nothing at {place}.")
    for part in reversed(path.absolute().parts[-5:]):
        if found := _kind_by_name(part):
            return found
    return _kind_by_content(path)


def _kind_by_name(name: str) -> Kind | None:
    if _L1B.match(name):
        return "l1b"
    if _THEIA.match(name):
        return "theia"
    return "safe" if _SAFE.match(name) else None


def _kind_by_content(path: Path) -> Kind:
    names = {p.name for p in path.iterdir()} if path.is_dir() else {path.name}
    if names & {"zarr.json", ".zgroup", ".zmetadata"}:
        return "eopf"
    for name in sorted(names):
        if found := _kind_by_name(name):
            return found
    if any(name.startswith("MTD_MSIL1B") for name in names):
        return "l1b"
    raise ReadError(
        f"{path} is no product that is read here: give the JSON of a STAC item or "
        "search, a .SAFE directory or zip, an EOPF Zarr, or a Theia product."
    )


def _kind_of_item(facts: Any) -> Kind:  # noqa: ANN401 - JSON
    """Return the reader of an item: items of EOPF have one Zarr product as asset."""
    assets = facts.get("assets") if isinstance(facts, Mapping) else None
    product = assets.get("product") if isinstance(assets, Mapping) else None
    href = str(product.get("href", "")) if isinstance(product, Mapping) else ""
    return "eopf" if _is_zarr(href) else "stac"


def _is_zarr(place: str) -> bool:
    """Tell whether a path or URL, signed or not, is named as a Zarr store."""
    return without_query(place).rstrip("/").lower().endswith(".zarr")
