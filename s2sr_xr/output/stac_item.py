"""What was made, as a STAC item: where, when, from what, and by which model."""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.footprint import COG, footprint
from s2sr_xr.core.version import library_version
from s2sr_xr.errors import GridError, ModelError, StoreError, redact
from s2sr_xr.models.mlm import to_mlm
from s2sr_xr.models.registry import get_spec
from s2sr_xr.output.zarr import REFLECTANCE, Packing, open_result
from s2sr_xr.output.zarr.attrs import geotransform
from s2sr_xr.output.zarr.storage import place

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pystac
    import xarray as xr
    from zarr.abc.store import Store

__all__ = ["result_item"]

ZARR = "application/vnd.zarr; version=3"
"""Media type of a store, as STAC's best practices write it."""

EXTENSIONS = (
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/xarray-assets/v1.0.0/schema.json",
)

RED_EDGE = {"B05": "rededge071", "B06": "rededge075", "B07": "rededge078"}
"""Common names of the EO extension that differ from Earth Search's keys."""

MLM_FIELDS = ("name", "architecture", "framework", "tasks", "hyperparameters")


def result_item(
    store: str | Path | Store,
    *,
    sources: Iterable[pystac.Item | Mapping[str, Any]] = (),
    cogs: Mapping[str, str | Path] | None = None,
    item_id: str | None = None,
) -> pystac.Item:
    """Return a STAC item that describes a complete store.

    Parameters
    ----------
    store
        Path or URL of a store that `to_zarr` finished.
    sources
        The items that it was made from. Those with an address are linked as
        ``derived_from``; the ids that the store knows itself stand in
        ``s2sr:sources`` in any case.
    cogs
        Files of the same pixels, as `to_cog` returns them.
    item_id
        Default: the name of the store, without ``.zarr``.

    Returns
    -------
    pystac.Item
        STAC 1.1: footprint in degrees, times, grid (``proj:``), bands with scale,
        offset and no-data, software (``processing:``), and in ``s2sr:models`` each
        model in the words of the Machine Learning Model extension. Assets: ``zarr``,
        and one a file of `cogs`. No address in it holds a query or a password.

    Raises
    ------
    StoreError
        The store is not complete, has no address, `sources` are not those it was made
        from, or no time is known.
    GridError
        The store has no CRS with an EPSG code.
    """
    import pystac

    href = place(store)
    if not isinstance(href, str):
        raise StoreError(
            f"{href} has no address that another process could open. Write the result "
            "to a path or URL, and describe that."
        )
    ds = open_result(href)
    given = [s if isinstance(s, pystac.Item) else _read(s) for s in sources]
    ids = _ids(ds, given)
    geometry, bbox, proj = _place(ds)
    one, first, last = _times(ds, given)
    name = item_id or re.sub(r"\.zarr$", "", href.rstrip("/").rpartition("/")[2])
    item = pystac.Item(
        id=redact(name),
        geometry=geometry,
        bbox=bbox,
        datetime=one,
        start_datetime=first,
        end_datetime=last,
        properties={**_properties(ds), **proj, "s2sr:sources": ids},
        stac_extensions=list(EXTENSIONS),
    )
    item.add_asset("zarr", _zarr_asset(ds, href))
    for key, path in (cogs or {}).items():
        item.add_asset(key, _cog_asset(ds, key, place(path)))
    for source in given:
        if at := source.get_self_href():
            item.add_link(
                pystac.Link(
                    "derived_from", redact(at), pystac.MediaType.GEOJSON, source.id
                )
            )
    return item


def _read(source: Mapping[str, Any]) -> pystac.Item:
    import pystac

    return pystac.Item.from_dict(dict(source), preserve_dict=True)


def _ids(ds: xr.Dataset, given: Sequence[pystac.Item]) -> list[str]:
    """Return the ids of the sources, those of the store first."""
    known = [str(i) for i in np.atleast_1d(ds["item_id"])] if "item_id" in ds else []
    strange = [s.id for s in given if known and s.id not in known]
    if strange:
        raise StoreError(
            f"The store was made from {', '.join(known)}, not from "
            f"{', '.join(strange)}; give sources= the items that it was made from."
        )
    return list(dict.fromkeys([*known, *(s.id for s in given)]))


def _place(
    ds: xr.Dataset,
) -> tuple[dict[str, Any], list[float], dict[str, Any]]:
    """Return the footprint in degrees, its bounding box, and ``proj:`` properties."""
    import rioxarray  # noqa: F401 - registers .rio

    crs = ds.rio.crs
    epsg = crs.to_epsg() if crs is not None else None
    if epsg is None:
        raise GridError(
            "The store has no CRS with an EPSG code, so its place on the globe is not "
            "known. Results of L1B, in the geometry of the sensor, have no STAC item."
        )
    a, _, left, _, e, top = transform = geotransform(ds)
    rows, cols = ds.sizes["y"], ds.sizes["x"]
    right, bottom = left + a * cols, top + e * rows
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    geometry, bbox = footprint(corners, epsg)
    return (
        geometry,
        bbox,
        {
            "proj:code": f"EPSG:{epsg}",
            "proj:shape": [rows, cols],
            "proj:transform": list(transform),
            "proj:bbox": [left, bottom, right, top],
        },
    )


Times = tuple["dt.datetime | None", "dt.datetime | None", "dt.datetime | None"]


def _times(ds: xr.Dataset, given: Sequence[pystac.Item]) -> Times:
    """Return the one time of the pixels, or None and the first and the last."""
    if "time" in ds.coords and ds["time"].dtype.kind == "M":
        stamps = np.atleast_1d(ds["time"].to_numpy()).astype("datetime64[us]")
        times = [t.replace(tzinfo=UTC) for t in stamps.tolist()]
    else:
        times = [s.datetime for s in given if s.datetime is not None]
    if not times:
        raise StoreError(
            "The store has no time. Give sources= the items that it was made from, "
            "which have one."
        )
    first, last = min(times), max(times)
    return (first, None, None) if first == last else (None, first, last)


def _properties(ds: xr.Dataset) -> dict[str, Any]:
    models = _models(ds)
    made_by = ", ".join(m["mlm:name"] for m in models) or "no model"
    version = str(ds.attrs.get("s2sr_version", library_version()))
    facts: dict[str, Any] = {
        "title": ds.attrs.get("title"),
        "constellation": "sentinel-2",
        "platform": str(ds.attrs.get("platform", "")).lower() or None,
        "instruments": ["msi"],
        "gsd": abs(float(ds["x"][1] - ds["x"][0])),
        "processing:level": ds.attrs.get("level"),
        "processing:lineage": f"made finer by {made_by}",
        "processing:software": {"s2sr_xr": version},
        "processing:version": version,
        "s2sr:models": models,
    }
    if tile := ds.attrs.get("mgrs_tile"):
        facts["grid:code"] = f"MGRS-{tile}"
    return {k: v for k, v in facts.items() if v is not None}


def _models(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Return each model once: its name, its weights, and what the registry knows."""
    found: dict[str, str] = {}
    for array in ds.data_vars.values():
        if name := array.attrs.get("s2sr_model"):
            found[str(name)] = str(array.attrs.get("s2sr_weights", "none"))
    return [_model(name, sha256) for name, sha256 in sorted(found.items())]


def _model(name: str, sha256: str) -> dict[str, Any]:
    entry = {"mlm:name": name, "s2sr:weights": sha256}
    try:
        spec = get_spec(name)
    except ModelError:  # somebody's own file, which need not be here
        return entry
    if spec.sha256 != sha256:  # other weights under this name, or none at all
        return entry
    properties = to_mlm(spec)["properties"]
    return entry | {f"mlm:{field}": properties[f"mlm:{field}"] for field in MLM_FIELDS}


def _bands(ds: xr.Dataset, *, packed: bool) -> list[dict[str, Any]]:
    """Return STAC 1.1 bands of every variable, in order."""
    names = [b for b in BANDS if b in ds] if packed else list(map(str, ds.data_vars))
    return [_band(name, ds[name]) for name in names]


def _band(name: str, array: xr.DataArray) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name}
    if name in BANDS:
        band = BANDS[name]
        entry |= {
            "eo:common_name": RED_EDGE.get(name, band.common),
            "eo:center_wavelength": round(band.wavelength / 1000, 4),
            "eo:full_width_half_max": round(band.width / 1000, 4),
            "data_type": "uint16",
            "nodata": Packing.fill,
            "unit": array.attrs.get("units", "1"),
            "raster:scale": REFLECTANCE.scale_factor,
            "raster:offset": REFLECTANCE.add_offset,
        }
        if model := array.attrs.get("s2sr_model"):
            entry["s2sr:model"] = str(model)
        return entry
    floats = {"nodata": "nan"} if array.dtype.kind == "f" else {}
    if text := array.attrs.get("long_name"):
        entry["description"] = str(text)
    return entry | {"data_type": array.dtype.name} | floats


def _zarr_asset(ds: xr.Dataset, href: str) -> pystac.Asset:
    import pystac

    return pystac.Asset(
        href=redact(href),
        title=str(ds.attrs.get("title", "Zarr store")),
        media_type=ZARR,
        roles=["data", "reflectance"],
        extra_fields={
            "bands": _bands(ds, packed=False),
            "xarray:open_kwargs": {"engine": "zarr", "consolidated": True},
        },
    )


def _cog_asset(ds: xr.Dataset, key: str, href: Any) -> pystac.Asset:  # noqa: ANN401
    import pystac

    flags = key == "quality"
    bands = [_band("quality", ds["quality"])] if flags else _bands(ds, packed=True)
    return pystac.Asset(
        href=redact(str(href)),
        title=f"Cloud-optimised GeoTIFF of the {key}",
        media_type=COG,
        roles=["metadata", "quality"] if flags else ["data", "reflectance"],
        extra_fields={"bands": bands},
    )
