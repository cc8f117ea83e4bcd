"""Windows that keep the pixel sizes nested: whole 60 m cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import xarray as xr

from s2sr_xr.core.area import Area
from s2sr_xr.core.grid import CELL, Ground, grid_of, spatial_ref
from s2sr_xr.errors import GridError
from s2sr_xr.readers.fetch.source import Crop, as_variable, source_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from s2sr_xr.core.grid import Grid

__all__ = ["Ground", "window"]

Obj = TypeVar("Obj", xr.DataTree, xr.Dataset, xr.DataArray)
Flat = TypeVar("Flat", xr.Dataset, xr.DataArray)


class SupportsGeoInterface(Protocol):
    """A shape of shapely, geopandas, pystac or another library."""

    @property
    def __geo_interface__(self) -> dict[str, Any]:
        """GeoJSON."""


def window(
    obj: Obj,
    *,
    bbox: Ground | None = None,
    geometry: Mapping[str, Any] | SupportsGeoInterface | None = None,
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
    crs: str = "EPSG:4326",
) -> Obj:
    """Return the part of an object over an area, in whole 60 m cells.

    Snapped outward, so that it holds all that is asked for and the pixels of all bands
    stay nested; clipped to what there is. Nothing is read.

    Parameters
    ----------
    obj
        A tree, Dataset or DataArray on Sentinel-2's own grid.
    bbox
        West, south, east and north bound in `crs`.
    geometry
        GeoJSON, or anything with ``__geo_interface__`` (shapely, geopandas), in `crs`;
        its bounding box is cut.
    x, y
        Bounds in metres, in the object's own UTM zone, in either order; instead of
        `bbox` or `geometry`.
    crs
        Coordinates of `bbox` and `geometry`: longitude and latitude unless said.

    Raises
    ------
    GridError
        The area does not meet the object, is not an area, or is given twice; or the
        object is not on Sentinel-2's grid.
    """
    given = [a for a in (bbox, geometry, y if x is None else x) if a is not None]
    if len(given) != 1 or (x is None) != (y is None):
        raise GridError(
            "A window is one of bbox=(west, south, east, north), geometry=..., or "
            "x=(west, east) with y=(south, north) in metres."
        )
    if x is not None and y is not None:
        (west, east), (south, north) = _pair("x", x), _pair("y", y)
        area = Area((west, south, east, north), None)
    else:
        area = Area(_bounds(geometry) if bbox is None else bbox, crs)
    if isinstance(obj, xr.DataTree):
        groups = {n: g.to_dataset() for n, g in obj.children.items() if g.data_vars}
        if not groups:
            raise GridError(
                f"The tree {obj.name or ''} has no groups of bands below it. Cut the "
                "whole tree, or one group as a Dataset: tree['r10m'].to_dataset()."
            )
        area = _inside(area, [grid_of(ds) for ds in groups.values()])
        cut = {name: _cut(ds, area) for name, ds in groups.items()}
        tree = xr.DataTree.from_dict(cut, name=obj.name)
        tree.attrs = dict(obj.attrs)
        return tree
    return _cut(obj, _inside(area, [grid_of(obj)]))


def _pair(name: str, bounds: object) -> tuple[float, float]:
    """Return two numbers, or raise."""
    found = tuple(bounds) if isinstance(bounds, tuple | list | np.ndarray) else ()
    if len(found) != 2 or not all(isinstance(b, Real) for b in found):
        raise GridError(f"{name} is two bounds in metres; got {name}={bounds!r}.")
    return float(found[0]), float(found[1])


def _inside(area: Area, grids: Sequence[Grid]) -> Area:
    """Return the whole cells that meet an area and lie inside every grid."""
    west, south, east, north = area.on(grids[0])
    _, top = grids[0].phase
    zero = grids[0].y_edge - top
    lefts, bottoms, rights, uppers = zip(*(g.extent for g in grids), strict=True)
    common = max(lefts), max(bottoms), min(rights), min(uppers)
    left, bottom, right, upper = common
    bounds = (
        max(_down(west), _up(left)),
        max(_down(south - zero), _up(bottom - zero)) + zero,
        min(_up(east), _down(right)),
        min(_up(north - zero), _down(upper - zero)) + zero,
    )
    if bounds[0] >= bounds[2] or bounds[1] >= bounds[3]:
        raise GridError(
            f"The window (west, south, east, north) = {area.on(grids[0])} does not "
            f"meet a whole {CELL} m cell of the data, which cover {common}, in metres "
            "of their own UTM zone."
        )
    return Area(bounds, None)


def _down(metres: float) -> float:
    return math.floor(metres / CELL + 1e-9) * CELL


def _up(metres: float) -> float:
    return math.ceil(metres / CELL - 1e-9) * CELL


def _bounds(geometry: object) -> Ground:
    """Return the bounding box of GeoJSON, of a Feature, or of a shape."""
    shape = getattr(geometry, "__geo_interface__", geometry)
    points = list(_points(shape))
    if not points:
        raise GridError(
            f"The geometry is a {type(geometry).__name__} without coordinates; give "
            "GeoJSON, or a shape with __geo_interface__."
        )
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _points(shape: object) -> Iterator[tuple[float, float]]:
    if isinstance(shape, Mapping):
        for key in ("coordinates", "geometry", "geometries", "features"):
            if key in shape:
                yield from _points(shape[key])
    elif isinstance(shape, list | tuple):
        if len(shape) >= 2 and all(isinstance(n, int | float) for n in shape):
            yield float(shape[0]), float(shape[1])
        else:
            for part in shape:
                yield from _points(part)


def _cut(obj: Flat, area: Area) -> Flat:
    grid = grid_of(obj)
    rows, cols = area.slices(grid)
    part = obj.isel(y=rows, x=cols)
    part = part.assign_coords(_placed(part, grid.part(rows, cols)))
    for name, array in getattr(obj, "data_vars", {}).items():
        chunks = array.variable.chunks
        source = source_of(array.variable) if chunks else None
        if chunks and source is not None:
            # A slice of a Dask array depends on whole chunks; a part of a source reads
            # its own window.
            part[name] = as_variable(
                Crop(
                    source=source,
                    rows=(rows.start, rows.stop),
                    cols=(cols.start, cols.stop),
                ),
                max(chunks[-1]),
                array.attrs,
            )
            part[name].encoding = array.encoding
    return part


def _placed(part: xr.Dataset | xr.DataArray, grid: Grid) -> dict[str, xr.Variable]:
    """Return the CRS of a part with its own corner, where the whole named one."""
    mapping = part.coords.get("spatial_ref")
    if mapping is None or "GeoTransform" not in mapping.attrs:
        return {}
    moved = mapping.variable.copy()
    moved.attrs["GeoTransform"] = spatial_ref(grid).attrs["GeoTransform"]
    return {"spatial_ref": moved}
