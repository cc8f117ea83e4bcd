"""What an xarray object holds: bands on their grids, flags, times, coordinates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from s2sr_xr.core.bands import BANDS, canonical, group
from s2sr_xr.core.grid import Grid, grid_of
from s2sr_xr.core.nodata import CEILING, FLOOR, declared
from s2sr_xr.errors import GridError, MissingBandError, RadiometryError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping


__all__ = ["FLAGS", "Object", "Plane", "Scene", "flags_name", "scene_of"]

Object = xr.DataTree | xr.Dataset | xr.DataArray


@dataclass(frozen=True, slots=True)
class Plane:
    """The pixels of one band."""

    variable: xr.Variable
    """Float values, dims ``(time, y, x)`` or ``(y, x)``, of any backing."""

    grid: Grid
    """Where the pixels of `variable` lie."""

    native: int
    """Side of a native pixel in metres; larger than the grid's when the band was
    repeated onto a finer grid."""

    @property
    def repeat(self) -> int:
        """How many pixels of `variable` hold the same native pixel, along a side."""
        return round(self.native / self.grid.res)


@dataclass(frozen=True, slots=True)
class Scene:
    """What one object holds: bands, and everything that is not y and x."""

    planes: Mapping[str, Plane]
    """By ESA identifier."""

    flags: Mapping[str, Plane] = field(default_factory=dict)
    """What the product says of its pixels, by `flags_name`: bits of `quality`."""

    coords: Mapping[str, xr.Variable] = field(default_factory=dict)
    """Time and what depends on it alone."""

    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Attributes that describe the scene."""

    units: str = "1"
    """What a pixel counts: reflectance, or ``"count"`` for L1B."""

    ceiling: float = CEILING
    """From which value on a pixel is saturated."""

    @property
    def times(self) -> int | None:
        """Steps along time, or None without that dimension."""
        time = self.coords.get("time")
        return None if time is None or time.ndim == 0 else time.size

    @property
    def level(self) -> str | None:
        """Processing level, such as ``"L2A"``, where the object says it."""
        level = self.attrs.get("level")
        return str(level) if level else None


FLAGS = "flags"
"""The variable of a group that holds the product's masks, as bits of `quality`."""


def flags_name(res: float) -> str:
    """Return what the flags of pixels of `res` metres are called, next to the bands.

    >>> flags_name(20)
    'flags20'
    """
    return f"{FLAGS}{res:g}"


def scene_of(obj: Object) -> Scene:
    """Return the bands of an xarray object, checked, without reading a pixel.

    Raises
    ------
    GridError
        No y and x, corner coordinates, a grid that is not Sentinel-2's own.
    RadiometryError
        Integer counts instead of reflectance.
    MissingBandError
        No variable is named like a band.
    """
    if isinstance(obj, xr.DataTree):
        return _scene_of_tree(obj)
    if isinstance(obj, xr.DataArray):
        return _scene_of_array(obj)
    grid = grid_of(obj)
    return _scene(((name, obj[name], grid) for name in obj.data_vars), obj.attrs)


def _scene_of_tree(tree: xr.DataTree) -> Scene:
    groups = {g: tree[g].to_dataset() for g in map(group, (10, 20, 60)) if g in tree}
    if not groups:
        raise GridError(
            f"The tree has groups {sorted(tree.children)}, none of r10m, r20m, r60m. "
            "Open it with s2sr_xr.open_stac, or give a Dataset on a 10 m grid."
        )
    entries: list[tuple[Hashable, xr.DataArray, Grid]] = []
    for ds in groups.values():
        if ds.data_vars:
            grid = grid_of(ds)
            entries += [(name, ds[name], grid) for name in ds.data_vars]
    here = {canonical(str(n)) for n, _, g in entries if _is_native(n, g)}
    # L2A products hold copies of finer bands at coarser levels; only natives count.
    natives = [
        e for e in entries if _is_native(e[0], e[2]) or canonical(str(e[0])) not in here
    ]
    return _scene(natives, tree.attrs)


def _is_native(name: Hashable, grid: Grid) -> bool:
    band = canonical(str(name))
    return band is not None and BANDS[band].native == grid.res


def _scene_of_array(array: xr.DataArray) -> Scene:
    if "band" not in array.dims:
        ds = array.to_dataset(name=array.name or "B02")
        if array.name is None or canonical(str(array.name)) is None:
            grid_of(ds)
            raise MissingBandError(
                f"The array has dims {array.dims} and the name {array.name!r}; give "
                "dims (time, band, y, x) with band names, or name it like a band."
            )
        return scene_of(ds)
    grid = grid_of(array)
    return _scene(
        (
            (str(name), array.isel(band=i), grid)
            for i, name in enumerate(array.band.values)
        ),
        array.attrs,
    )


def _scene(
    entries: Iterable[tuple[Hashable, xr.DataArray, Grid]], attrs: Mapping[Any, Any]
) -> Scene:
    planes: dict[str, Plane] = {}
    flags: dict[str, Plane] = {}
    coords: dict[str, xr.Variable] = {}
    seen: list[str] = []
    for name, array, grid in entries:
        seen.append(str(name))
        if name == FLAGS and array.dtype == np.uint8:
            where = _ordered(FLAGS, array)
            flags[flags_name(grid.res)] = Plane(where, grid, round(grid.res))
        band = canonical(str(name))
        if band is None:
            continue
        if band in planes:
            raise GridError(
                f"{band} appears more than once in the object; drop one ({name!r})."
            )
        planes[band] = _plane(band, array, grid)
        coords |= _time_coords(array, coords)
    if not planes:
        raise MissingBandError(
            f"No variable is named like a Sentinel-2 band; it has {sorted(seen)}. "
            f"Rename them to {', '.join(BANDS)} or STAC's common names."
        )
    keep = {str(k): v for k, v in attrs.items() if k in _SCENE_ATTRS}
    return Scene(planes, flags, coords, keep)


_SCENE_ATTRS = ("level", "platform", "mgrs_tile", "source")


def _plane(band: str, array: xr.DataArray, grid: Grid) -> Plane:
    native = BANDS[band].native
    if native < grid.res:
        raise GridError(
            f"{band} has pixels of {grid.res:g} m, but its native pixel is {native} m. "
            "Load it at its native resolution."
        )
    if made_by := array.attrs.get("s2sr_model"):
        raise GridError(
            f"{band} is already at {grid.res:g} m, made by {made_by}. Give the bands "
            "at their native pixels."
        )
    if native % grid.res or grid.res < 10:
        raise GridError(
            f"{band} lies on pixels of {grid.res:g} m, finer than the sensor's or not "
            f"a part of its {native} m. Give the bands at their native pixels."
        )
    _check_dtype(band, array.dtype)
    return Plane(_masked(_ordered(band, array)), grid, native)


def _masked(variable: xr.Variable) -> xr.Variable:
    """Return a band with NaN where it is a value that its attributes call missing.

    Only where that cannot be a reflectance: a 0 may be left over from counts, of which
    it was taken away already.
    """
    for value in declared(variable.attrs):
        if not FLOOR < value < CEILING:
            variable = variable.where(variable != variable.dtype.type(value))
    return variable


def _ordered(name: str, array: xr.DataArray) -> xr.Variable:
    dims = ("time", "y", "x") if "time" in array.dims else ("y", "x")
    if set(array.dims) != set(dims):
        raise GridError(f"{name} has dims {array.dims}; it needs {dims}.")
    return array.variable.transpose(*dims)


def _check_dtype(band: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind in "iu":
        raise RadiometryError(
            f"{band} holds integers ({dtype}); float reflectance is needed. Decode the "
            "counts first: obj.s2sr.decode(offset=..., scale=1e-4), with offset=-1000 "
            "from processing baseline 04.00 on and 0 before."
        )
    if dtype.kind != "f":
        raise RadiometryError(f"{band} holds {dtype}; float reflectance is needed.")


def _time_coords(
    array: xr.DataArray, known: Mapping[str, xr.Variable]
) -> dict[str, xr.Variable]:
    """Return time and our readers' coordinates along it; others' may hold objects.

    A single time that was selected stays, as a scalar.
    """
    names = [n for n in ("time", "item_id", "baseline") if n in array.coords]
    own = {n: array[n].variable for n in names if set(array[n].dims) <= {"time"}}
    if "time" in array.dims and "time" not in own:
        own["time"] = xr.Variable("time", np.arange(array.sizes["time"]))
    own = {n: v.to_base_variable() for n, v in own.items()}
    if "time" in known and "time" in own and not known["time"].equals(own["time"]):
        raise GridError(
            "Bands have different time axes. Select common times in every group: "
            "obj.sel(time=times)."
        )
    return own
