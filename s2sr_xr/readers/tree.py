"""From images to a tree: what every reader checks, and how it shows what it found."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.core.radiometry import baseline_of
from s2sr_xr.errors import ChunkError, GridError, MissingBandError
from s2sr_xr.readers.fetch.source import BandSource, Crop, as_variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from s2sr_xr.core.area import Area
    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.reflectance import Radiometry
    from s2sr_xr.readers.fetch.asset import Asset
    from s2sr_xr.readers.fetch.source_protocol import Source
    from s2sr_xr.readers.stac.items import Item

    Reader = Callable[
        [Sequence[Item], Mapping[str, Sequence["Image"]], Grid, int | None],
        dict[str, xr.Variable],
    ]
    # Shows images, or the part of them on a smaller grid, as reflectance.

NESTING = 6
"""Ten-metre pixels along the side of the coarsest pixel, of 60 m."""

NO_MODEL = "B10"
"""The cirrus band: no model takes it, so it is loaded only by name."""

CLASSES = "SCL"
"""The scene classification of L2A products, on pixels of 20 m."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One image of one item: where it is, where it lies."""

    asset: Asset
    grid: Grid


@dataclass(frozen=True, slots=True)
class Image(Layer):
    """One band of one item, and what its counts mean."""

    radiometry: Radiometry


def res_of(band: str) -> int:
    """Return the side of a native pixel of a band, in metres."""
    return 20 if band == CLASSES else BANDS[band].native


def check_chunks(chunks: int | None) -> None:
    """Refuse a chunk size that is not a number of pixels."""
    if chunks is None:
        return
    whole = isinstance(chunks, int) and not isinstance(chunks, bool)
    if whole and chunks >= NESTING and chunks % NESTING == 0:
        return
    near = "2196 is the default"
    if whole:
        below = max(chunks // NESTING * NESTING, NESTING)
        near = f"the nearest are {below} and {below + NESTING}"
    raise ChunkError(
        f"chunks={chunks!r}: the side of a chunk is a multiple of {NESTING} ten-metre "
        f"pixels, so that it holds whole 60 m pixels ({near}), or None."
    )


def wanted_bands(items: Sequence[Item], bands: Sequence[str] | None) -> list[str]:
    """Return the bands to open, in instrument order; every item has them all."""
    if bands is None:
        names = {b for item in items for b in item.bands} - {NO_MODEL}
    else:
        asked = [bands] if isinstance(bands, str) else list(bands)
        known = {b: canonical(b) for b in asked}
        if unknown := [b for b in asked if known[b] is None]:
            raise MissingBandError(
                f"{', '.join(unknown)}: no such band. Sentinel-2 has "
                f"{', '.join(BANDS)}."
            )
        names = {b for b in known.values() if b is not None}
    if not names:
        raise MissingBandError(
            f"Item {items[0].id} has no asset that is a band; it has the assets "
            f"{', '.join(items[0].facts['assets'])}."
        )
    for band in (b for b in BANDS if b in names):
        if lacking := [item for item in items if band not in item.bands]:
            _raise_missing(band, lacking, len(items))
    return [b for b in BANDS if b in names]


def _raise_missing(band: str, lacking: Sequence[Item], total: int) -> None:
    first = lacking[0]
    others = ", ".join(item.id for item in lacking[1:4])
    raise MissingBandError(
        f"Item {first.id} has no asset for band {band} (it has "
        f"{', '.join(b for b in BANDS if b in first.bands)}); {len(lacking)} of "
        f"{total} items{f', also {others}' if others else ''}. Leave them out, or name "
        "the bands that all have: bands=[...].",
        item=first.id,
        band=band,
    )


# --- grids ----------------------------------------------------------------------------


def is_native(band: str, transform: Sequence[float]) -> bool:
    """Return whether a transform is that of a native grid of a band."""
    a, b, _, d, e = transform[:5]
    return (a, b, d, e) == (res_of(band), 0, 0, -res_of(band))


def crs_of(fields: Mapping[str, Any]) -> str | None:
    """Return the CRS that an asset or an item's properties name."""
    if code := fields.get("proj:code"):
        return str(code)
    if epsg := fields.get("proj:epsg"):
        return f"EPSG:{int(epsg)}"
    if wkt := fields.get("proj:wkt2"):
        return str(wkt)
    projjson = fields.get("proj:projjson")
    return json.dumps(projjson) if projjson else None


@functools.lru_cache(maxsize=128)
def wkt_of(crs: str) -> str:
    """Return the WKT of a coordinate reference system."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return str(CRS.from_user_input(crs).to_wkt())
    except CRSError as error:
        raise GridError(f"{crs!r} is no coordinate reference system.") from error


def ground(grid: Grid) -> tuple[str, tuple[float, ...]]:
    """Return what grids of one place share, whatever their pixel: CRS and extent."""
    return grid.crs, tuple(round(edge, 3) for edge in grid.extent)


def check_nesting(item: Item, images: Sequence[Layer]) -> None:
    """Raise unless all bands of an item lie on the same ground."""
    first = images[0]
    for image in images[1:]:
        if ground(image.grid) == ground(first.grid):
            continue
        shift = (
            image.grid.x_edge - first.grid.x_edge,
            image.grid.y_edge - first.grid.y_edge,
        )
        raise GridError(
            f"{image.asset.band} of {item.id} covers {place_of(image.grid)}, "
            f"{first.asset.band} covers {place_of(first.grid)} (corners "
            f"{shift[0]:g} and {shift[1]:g} m apart); "
            "pixels of 10, 20 and 60 m must cover the same ground. "
            "Use products on their own grid.",
            item=item.id,
            band=image.asset.band,
        )


def place_of(grid: Grid) -> str:
    """Return the CRS and the extent of a grid as text."""
    west, south, east, north = grid.extent
    x, y = f"{west:.10g}..{east:.10g}", f"{south:.10g}..{north:.10g}"
    return f"{_crs_name(grid.crs)} x {x}, y {y}"


@functools.lru_cache(maxsize=128)
def _crs_name(wkt: str) -> str:
    from pyproj import CRS

    crs = CRS.from_wkt(wkt)
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.name)


# --- the tree -------------------------------------------------------------------------


def group_of(
    items: Sequence[Item],
    images: Mapping[str, Sequence[Image]],
    chunks: int | None,
    *,
    area: Area | None = None,
    read: Reader | None = None,
) -> xr.Dataset:
    """Return the bands of one pixel size, all of them or the part over `area`."""
    grid = part = next(iter(images.values()))[0].grid
    if area is not None:
        part = grid.part(*area.slices(grid))
    data = (read or _native_data)(items, images, part, chunk_of(chunks, grid))
    for band, its in images.items():
        known = BANDS[band]
        data[band].attrs = {
            "long_name": f"reflectance in {known.name}, {known.wavelength:g} nm",
            "units": "1",
            "wavelength": known.wavelength,
            "radiometry": _said(items, [i.radiometry for i in its]),
        }
        data[band].encoding["grid_mapping"] = "spatial_ref"
    return xr.Dataset(data, coords_of(items, part))


def _native_data(
    items: Sequence[Item],  # noqa: ARG001 - as `Reader`
    images: Mapping[str, Sequence[Image]],
    part: Grid,
    chunk: int | None,
) -> dict[str, xr.Variable]:
    """Return bands as they are read here; see `Reader`."""
    data = {}
    for band, its in images.items():
        source = BandSource(
            assets=tuple(i.asset for i in its),
            radiometry=tuple(i.radiometry for i in its),
        )
        data[band] = as_variable(on(part, source, its[0].grid), chunk, {})
    return data


def on(part: Grid, source: Source, whole: Grid) -> Source:
    """Return the part of a source that lies on the grid `part`."""
    if part == whole:
        return source
    top = round((whole.y_edge - part.y_edge) / whole.res)
    left = round((part.x_edge - whole.x_edge) / whole.res)
    rows, cols = part.shape
    return Crop(source=source, rows=(top, top + rows), cols=(left, left + cols))


def chunk_of(chunks: int | None, grid: Grid) -> int | None:
    """Return the side of a chunk in pixels of `grid`, from that in 10 m pixels."""
    return None if chunks is None else chunks * 10 // int(grid.res)


def coords_of(items: Sequence[Item], grid: Grid) -> dict[str, Any]:
    """Return the coordinates of a group: time, item, baseline, pixel centres."""
    return {
        "time": ("time", np.array([item.time for item in items], "datetime64[ns]")),
        # Objects: fixed-width text has no stable form in Zarr.
        "item_id": ("time", np.array([item.id for item in items], object)),
        "baseline": (
            "time",
            np.array([baseline_of(item.facts)[0] for item in items], object),
        ),
        **grid.coords(),
    }


def _said(items: Sequence[Item], radiometry: Sequence[Radiometry]) -> str:
    """Return how counts were decoded, with the items where they differ."""
    told: dict[str, list[str]] = {}
    for item, one in zip(items, radiometry, strict=True):
        told.setdefault(str(one), []).append(item.id)
    if len(told) == 1:
        return next(iter(told))
    return "; ".join(f"{text}: {', '.join(ids)}" for text, ids in told.items())


def attrs_of(items: Sequence[Item]) -> dict[str, str]:
    """Return what is true of the whole tree."""
    levels = {level: item.id for item in items if (level := item.level)}
    if len(levels) > 1:
        table = ", ".join(f"{level} ({of})" for level, of in sorted(levels.items()))
        raise GridError(
            f"The items are of several levels: {table}. Open one at a time."
        )
    platforms = sorted({p for item in items if (p := item.platform)})
    tiles = sorted({t for item in items if (t := item.tile)})
    attrs = {
        "level": next(iter(levels), ""),
        "platform": ", ".join(platforms),
        "mgrs_tile": ", ".join(tiles),
        "source": "STAC",
    }
    return {k: v for k, v in attrs.items() if v}
