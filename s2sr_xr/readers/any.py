"""Open whatever a place holds: an item, a product, a store."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from s2sr_xr.errors import ReadError
from s2sr_xr.readers.fetch.address import is_remote, without_query
from s2sr_xr.readers.fetch.hrefs import path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr

__all__ = ["Kind", "is_json", "kind_of", "open_any", "read_json"]

Kind = Literal["stac", "safe", "l1b", "eopf", "theia"]

_L1B = re.compile(r"S2[A-Z]_(?:MSIL1B|OPER_(?:PRD_)?MSI_?L1B)", re.IGNORECASE)
_THEIA = re.compile(r"SENTINEL2[A-Z]_.+_L2A|.+_MTD_ALL\.xml$", re.IGNORECASE)
_SAFE = re.compile(
    r"S2[A-Z]_(?:MSI|OPER|USER)|.+\.SAFE$|.+\.zip$|.*MTD_MSIL(?:1C|2A)\.xml$",
    re.IGNORECASE,
)
_BUCKETS = ("s3://", "gs://", "az://", "abfs://")


def open_any(
    source: Any,  # noqa: ANN401 - see Parameters
    *,
    bands: Sequence[str] | None = None,
    chunks: int = 2196,
    found_at: str = "",
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
    found_at
        Local path or URL that relative hrefs of a given item count from.

    Returns
    -------
    xr.DataTree
        As the reader returns it. Of L1B all detectors, aligned to green by whole
        pixels, which reads a few windows of them.

    Raises
    ------
    ReadError
        It is of no kind that is read here, or cannot be read.
    S2SRError
        As the reader raises.
    """
    from s2sr_xr.readers.stac.items import Found

    if isinstance(source, str | os.PathLike):
        source = path_of(str(source))
    kind = kind_of(source)
    how: dict[str, Any] = {"bands": bands, "chunks": chunks}
    given: Any = Found(source, found_at) if found_at else source
    if kind == "stac":
        from s2sr_xr.readers.stac.open import open_stac

        return open_stac(given, **how)
    if kind == "eopf":
        from s2sr_xr.readers.eopf.open import open_eopf

        return open_eopf(given, **how)
    if kind == "theia":
        from s2sr_xr.readers.theia.open import open_theia

        return open_theia(source, **how)
    if kind == "l1b":
        from s2sr_xr.readers.l1b.open import align_to_green, open_l1b

        return align_to_green(open_l1b(source, chunks=chunks))
    from s2sr_xr.readers.safe.open import open_safe

    return open_safe(source, **how)


def read_json(place: str) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON that a place holds."""
    from s2sr_xr.readers.stac.items import load

    return load(place)[0]


def is_json(place: str) -> bool:
    """Return whether a place holds JSON: by its name, or as the answer of an API."""
    path = urlsplit(place).path.rstrip("/").lower()
    if path.endswith((".json", ".geojson")):
        return True
    return place.lower().startswith(("http://", "https://")) and not path.endswith(
        (".zarr", ".zip", ".safe")
    )


def kind_of(
    source: Any,  # noqa: ANN401 - see open_any
    *,
    load: Callable[[str], Any] = read_json,
) -> Kind:
    """Return which reader opens a source, by its name alone where that suffices.

    `load` reads the JSON of an item.
    """
    if not isinstance(source, str | os.PathLike):
        facts = source if isinstance(source, Mapping) else {}
        if hasattr(source, "to_dict"):
            facts = source.to_dict(transform_hrefs=False)
        return _kind_of_item(facts)
    place = str(source)
    if is_json(place):
        return _kind_of_item(load(place))
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
        f"{path} is not a product that is read here: give the JSON of a STAC item or "
        "search, a .SAFE directory or zip, an EOPF Zarr, or a Theia product."
    )


def _kind_of_item(facts: Any) -> Kind:  # noqa: ANN401 - JSON
    """Return the reader of an item: items of EOPF have one Zarr product as asset."""
    assets = facts.get("assets") if isinstance(facts, Mapping) else None
    product = assets.get("product") if isinstance(assets, Mapping) else None
    href = str(product.get("href", "")) if isinstance(product, Mapping) else ""
    return "eopf" if _is_zarr(href) else "stac"


def _is_zarr(place: str) -> bool:
    """Return whether a path or URL, signed or not, is named as a Zarr store."""
    return without_query(place).rstrip("/").lower().endswith(".zarr")
