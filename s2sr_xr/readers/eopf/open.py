"""An EOPF product, ESA's Zarr of Sentinel-2, to one lazy tree: native pixels, decoded.

Zarr itself reads a chunk that is not there as its fill value: a product that is cut,
half copied, or taken away during a long job would read as no data. So a `ZarrBand`
fetches the keys that a window needs, each of them whole or with an error, and
zarr-python only decodes them; it never sees the store.

Cost: a window decodes every chunk that it meets, 0.1 s for one of 5490 x 5490 (60 MB)
from a local disk. Dask chunks of 2196 decode the 10 m chunks of L2A nine times and its
one chunk of 20 m 25 times; ``chunks=5490`` does so once and four times. For L1C, with
chunks of 1830, take ``chunks=1830`` or a multiple.

References
----------
EOPF-Explorer/data-model, tests/_test_data/s2_examples: groups, attributes and chunks.
EOPF-Sample-Service/xarray-eopf#88: products whose arrays name no CRS.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from s2sr_xr.core.bands import BANDS, group
from s2sr_xr.core.grid import Grid, grid_of
from s2sr_xr.core.radiometry import declared, number_of, override
from s2sr_xr.core.reflectance import Radiometry
from s2sr_xr.errors import GridError, ReadError, redact
from s2sr_xr.readers.eopf.band import ZarrBand, check_array, strange_codecs
from s2sr_xr.readers.eopf.keys import SCHEMES, scheme
from s2sr_xr.readers.eopf.metadata import Documents, Node, documents_of
from s2sr_xr.readers.fetch.address import refusal, without_query
from s2sr_xr.readers.item import select_bands, tree_attrs
from s2sr_xr.readers.place import (
    check_ground,
    crs_as_wkt,
    declared_crs,
    has_native_pixels,
)
from s2sr_xr.readers.stac.items import Found, all_items, parse_item
from s2sr_xr.readers.tree import Layer, band_attrs, check_chunks, make_tree

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy as np
    import pystac

    from s2sr_xr.readers.item import Item

__all__ = ["open_eopf"]

REFLECTANCE = "measurements/reflectance"
"""The group that holds ``r10m``, ``r20m`` and ``r60m``."""


def open_eopf(
    href: str | os.PathLike[str] | pystac.Item | Mapping[str, Any],
    *,
    bands: Sequence[str] | None = None,
    chunks: int | None = 2196,
    radiometry: str | Mapping[str, float] = "auto",
    missing: Literal["raise", "nodata"] = "raise",
) -> xr.DataTree:
    """Return an EOPF Zarr product of Sentinel-2, L1C or L2A, as a lazy tree.

    Parameters
    ----------
    href
        Local path or http(s) URL of the product, or an object store's (``s3://``,
        ``gs://``, ``az://``: with the packages that fsspec needs for them). Or its STAC
        item: a pystac Item, a dict, or the path or URL of its JSON.
    bands
        ESA's identifiers or STAC's common names. Default: all native bands of the
        product, but not B10, which no model takes. Resampled copies are never read.
    chunks
        Side of a Dask chunk in 10 m pixels, a multiple of 6; 20 m and 60 m bands get
        the same ground. None for lazily indexed variables without Dask.
    radiometry
        ``"auto"`` takes each array's ``scale_factor`` and ``add_offset``, and where
        they are not there the processing baseline. A mapping such as
        ``{"offset": -1000}`` (counts added before the scale, which is 1e-4 unless
        ``"scale"`` is given) says it for all bands.
    missing
        What a Zarr chunk that is not there means. Writers may leave out chunks without
        data, but a product that is incomplete looks the same: ``"raise"`` stops;
        ``"nodata"`` reads NaN, as long as the product itself is still there.

    Returns
    -------
    xr.DataTree
        As `open_stac` returns it, with one time step: groups ``r10m``, ``r20m``,
        ``r60m``, those that have bands, with one variable a band: float32 reflectance,
        1.0 = full, negative values kept, NaN for no data, dims ``(time, y, x)``.
        Attributes say how counts were decoded.

    Raises
    ------
    ReadError
        There is no such product, or its metadata could not be read or are not safe to
        use. Pixels are read, and may fail, when they are computed.
    MissingBandError
        A band is not there at its native pixel.
    GridError
        Arrays do not say where they lie, have other pixels than their band, or do not
        nest.
    RadiometryError
        Neither attributes nor a baseline say what the counts mean.
    ChunkError
        Chunks do not hold whole 60 m pixels.
    """
    check_chunks(chunks)
    meaning = override(radiometry)
    if missing not in ("raise", "nodata"):
        raise ReadError(f'missing={missing!r}: give "raise" or "nodata".')
    product = _product(href)
    names = select_bands([product.item], bands)
    layers = [_layer(product, band, meaning, missing) for band in names]
    check_ground(product.item.id, {layer.name: layer.grid for layer in layers})
    attrs = tree_attrs([product.item], "EOPF Zarr")
    return make_tree([product.item], layers, attrs, chunks=chunks)


# --- the product ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """A product: its metadata, its native bands, and its facts under STAC's names."""

    documents: Documents
    root: Mapping[str, Any]
    nodes: Mapping[str, Node]
    item: Item


def _product(given: object) -> _Product:
    """Return the product that the user means, its metadata read."""
    href, catalogue = _address(given)
    documents = documents_of(href)
    root = documents.attrs("")
    found = {band: documents.node(_path(band)) for band in BANDS}
    nodes = {band: node for band, node in found.items() if node is not None}
    if not nodes:
        raise _foreign(href, root)
    item = _facts(href, root, nodes, catalogue)
    return _Product(documents=documents, root=root, nodes=nodes, item=item)


def _path(band: str) -> str:
    """Return where a product has a band at its native pixel.

    >>> _path("B8A")
    'measurements/reflectance/r20m/b8a'
    """
    return f"{REFLECTANCE}/{group(BANDS[band].native)}/{band.lower()}"


def _address(given: Any) -> tuple[str, Mapping[str, Any]]:  # noqa: ANN401 - see open_eopf
    """Return the address of a product, and what its STAC item says of it."""
    is_item = hasattr(given, "to_dict") or isinstance(given, Mapping | Found)
    if not is_item and not without_query(str(given)).endswith(".json"):
        href = str(given)
        _check_href(href, href)
        return href.rstrip("/") or href, {}
    items = all_items([given])
    if len(items) > 1:
        raise ReadError(f"{len(items)} items were given; open one product at a time.")
    (item,) = items
    assets = item.facts["assets"]
    if "product" not in assets:
        raise ReadError(
            f"Item {item.id} has no asset 'product', as items of EOPF have (it has "
            f"{', '.join(list(assets)[:12])}). s2sr_xr.open_stac opens other items.",
            item=item.id,
        )
    href = str(assets["product"].get("href", ""))
    _check_href(href, f"The product of {item.id}")
    if scheme(href) not in SCHEMES:
        href = item.absolute("product", href)
    return href.rstrip("/"), item.properties


def _check_href(href: str, what: str) -> None:
    """Raise unless an address is one that is read here."""
    problem = None if scheme(href) in SCHEMES else refusal(href)
    if problem is None and scheme(href) and "::" in href:
        problem = "chains addresses; give that of the product alone"
    if problem:
        raise ReadError(f"{redact(without_query(what))} {problem}.")


def _foreign(href: str, root: Mapping[str, Any]) -> ReadError:
    """Return the error that says what a Zarr store is instead of a product."""
    shown = redact(without_query(href))
    if "s2sr:version" in root:
        return ReadError(f"{shown} is a result; s2sr_xr.open_result opens it.")
    kind = _discovery(root).get("product:type") or "no type"
    return ReadError(
        f"{shown} has no native band of Sentinel-2 under {REFLECTANCE}, and its "
        f"metadata say {kind}. Give the root of an EOPF product of L1C or L2A.",
        href=shown,
    )


def _discovery(root: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties that a product says for STAC; some say null as text."""
    said = (root.get("stac_discovery") or {}).get("properties") or {}
    return {k: v for k, v in said.items() if v not in (None, "", "null")}


def _facts(
    href: str,
    root: Mapping[str, Any],
    nodes: Mapping[str, Node],
    catalogue: Mapping[str, Any],
) -> Item:
    """Return the product under the names that STAC has for it."""
    own = _discovery(root)
    if start := own.get("start_datetime"):
        # The same by address and by item: an item's datetime may be another moment.
        own.setdefault("datetime", start)
    properties = {**catalogue, **own}
    baseline = own.get("eopf:baseline") or properties.get("processing:version")
    if baseline:
        properties["s2:processing_baseline"] = str(baseline)
    name = str((root.get("stac_discovery") or {}).get("id") or Path(href).name)
    facts = {
        "id": without_query(name).removesuffix(".SAFE").removesuffix(".zarr"),
        "properties": properties or {"datetime": None},
        "assets": {band.lower(): {} for band in nodes},
    }
    return parse_item(facts, href)


# --- bands ----------------------------------------------------------------------------


def _layer(
    product: _Product,
    band: str,
    meaning: Radiometry | None,
    missing: Literal["raise", "nodata"],
) -> Layer:
    """Return one band of a product, its metadata checked."""
    node, item = product.nodes[band], product.item
    source = ZarrBand(
        item_id=item.id,
        band=band,
        href=product.documents.href,
        path=_path(band),
        array=node.array,
        radiometry=_radiometry(item, band, node, meaning),
        missing=missing,
    )
    check_array(source, node)
    grid = _grid(product, source, node)
    return Layer(band, source, grid, band_attrs(band, str(source.radiometry)))


def _radiometry(
    item: Item, band: str, node: Node, meaning: Radiometry | None
) -> Radiometry:
    """Return what the counts of an array mean."""
    attrs = {**(node.attrs.get("_eopf_attrs") or {}), **node.attrs}
    fill = json.loads(node.array).get("fill_value")
    nodata = number_of(attrs.get("_FillValue", attrs.get("fill_value", fill)))
    code = int(nodata) if nodata is not None and nodata.is_integer() else 0
    if meaning is not None:
        return replace(meaning, nodata=code)
    scale, offset = (number_of(attrs.get(k)) for k in ("scale_factor", "add_offset"))
    if scale is None or offset is None:
        # A scale alone does not say whether the offset is there, as in STAC items.
        return replace(declared(item.facts, band, band.lower()), nodata=code)
    return Radiometry(
        scale=scale,
        # Whole counts: -0.1 / 1e-4 is not quite -1000.
        offset=float(round(offset / scale)) if scale else 0.0,
        nodata=code,
        source="CF attrs",
    )


def _grid(product: _Product, source: ZarrBand, node: Node) -> Grid:
    """Return where a band lies: from its attributes, else from its coordinates."""
    shape = source.shape[1:]
    crs = crs_as_wkt(_product_crs(product, source, node))
    said = node.attrs.get("proj:transform")
    if said:
        transform = tuple(float(c) for c in said[:6])
        res, x_edge, y_edge = transform[0], transform[2], transform[5]
        grid = Grid(crs=crs, x_edge=x_edge, y_edge=y_edge, res=res, shape=shape)
    else:
        folder = source.path.rpartition("/")[0]
        coords = {d: _coordinate(product, source, f"{folder}/{d}") for d in ("x", "y")}
        grid = grid_of(xr.Dataset(coords=coords, attrs={"crs": crs}))
        transform = grid.transform
    if not has_native_pixels(source.band, transform):
        raise _wrong(
            source,
            f"has the transform {transform}; its native pixel is "
            f"{BANDS[source.band].native} m, north up",
        )
    declared_shape = tuple(node.attrs.get("proj:shape") or shape)
    if declared_shape != shape or grid.shape != shape:
        raise _wrong(source, f"has {shape} pixels, but says {declared_shape}")
    return grid


def _coordinate(product: _Product, like: ZarrBand, path: str) -> np.ndarray:
    """Return the pixel centres along a side of a band."""
    node = product.documents.node(path)
    if node is None:
        raise _wrong(like, f"has no proj:transform, and there is no {path}")
    plain = Radiometry(offset=0, source="coordinates")
    source = replace(like, path=path, array=node.array, radiometry=plain)
    facts = json.loads(node.array)
    if strange_codecs(facts):
        raise source.error("is encoded in a way that is not decoded here")
    (size,) = facts["shape"]
    return source.counts((slice(0, size),))


def _product_crs(product: _Product, source: ZarrBand, node: Node) -> str:
    """Return the CRS, from the first of the places that products keep it in."""
    folder = source.path.rpartition("/")[0]
    other = product.root.get("other_metadata") or {}
    code = {str(k).lower(): v for k, v in other.items()}.get("horizontal_crs_code")
    found = (
        declared_crs(node.attrs)
        or declared_crs(product.documents.attrs(folder))
        or code
        or declared_crs(product.item.properties)
        or product.documents.attrs(f"{folder}/spatial_ref").get("crs_wkt")
    )
    if not found:
        raise _wrong(source, "has no CRS, nor has its product")
    return str(found)


def _wrong(source: ZarrBand, problem: str) -> GridError:
    return GridError(
        f"{source.band} of {source.item_id} {problem} ({source.shown}). Use the "
        "product as ESA distributes it.",
        item=source.item_id,
        band=source.band,
        href=source.shown,
    )
