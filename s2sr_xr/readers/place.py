"""Where images lie: their CRS, their native pixels, and the ground that they cover."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.grid import Grid
from s2sr_xr.errors import GridError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from s2sr_xr.readers.fetch.asset import Asset

__all__ = [
    "CLASSES",
    "asset_grid",
    "check_ground",
    "crs_as_wkt",
    "declared_crs",
    "describe",
    "has_native_pixels",
    "native_size",
]

CLASSES = "SCL"
"""The scene classification of L2A products, on pixels of 20 m."""


def native_size(band: str) -> int:
    """Return the side of a native pixel of a band, in metres."""
    return 20 if band == CLASSES else BANDS[band].native


def has_native_pixels(band: str, transform: Sequence[float]) -> bool:
    """Return whether a transform is that of a native grid of a band, north up."""
    a, b, _, d, e = transform[:5]
    return (a, b, d, e) == (native_size(band), 0, 0, -native_size(band))


def declared_crs(fields: Mapping[str, Any]) -> str | None:
    """Return the CRS that an asset's fields, or an item's properties, name."""
    if code := fields.get("proj:code"):
        return str(code)
    if epsg := fields.get("proj:epsg"):
        return f"EPSG:{int(epsg)}"
    if wkt := fields.get("proj:wkt2"):
        return str(wkt)
    projjson = fields.get("proj:projjson")
    return json.dumps(projjson) if projjson else None


@functools.lru_cache(maxsize=128)
def crs_as_wkt(crs: str) -> str:
    """Return the WKT of a coordinate reference system."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return str(CRS.from_user_input(crs).to_wkt())
    except CRSError as error:
        raise GridError(f"{crs!r} is not a coordinate reference system.") from error


def asset_grid(asset: Asset) -> Grid:
    """Return the grid of an image of which CRS, transform and shape are known."""
    assert asset.shape is not None
    assert asset.transform is not None
    assert asset.crs is not None
    return Grid(
        crs=crs_as_wkt(asset.crs),
        x_edge=float(asset.transform[2]),
        y_edge=float(asset.transform[5]),
        res=float(asset.transform[0]),
        shape=asset.shape,
    )


def check_ground(
    item: str,
    grids: Mapping[str, Grid],
    *,
    names: Mapping[str, str] | None = None,
    remedy: str = "Use products on their own grid.",
) -> None:
    """Raise unless all bands of an item cover the same ground.

    Parameters
    ----------
    item
        Its identifier.
    grids
        The grid of each band.
    names
        What errors call the bands.
    remedy
        What to do about bands that do not.
    """
    called = names or {band: f"{band} of {item}" for band in grids}
    first, *others = grids
    for band in others:
        one, other = grids[first], grids[band]
        if _ground(one) == _ground(other):
            continue
        raise GridError(
            f"{called[band]} covers {describe(other)}, {called[first]} covers "
            f"{describe(one)} (corners {other.x_edge - one.x_edge:g} and "
            f"{other.y_edge - one.y_edge:g} m apart); "
            f"pixels of 10, 20 and 60 m must cover the same ground. {remedy}",
            item=item,
            band=band,
        )


def _ground(grid: Grid) -> tuple[str, tuple[float, ...]]:
    """Return what grids of one place share, whatever their pixel: CRS and extent."""
    return grid.crs, tuple(round(edge, 3) for edge in grid.extent)


def describe(grid: Grid) -> str:
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
