"""xarray objects to bands on one cell grid, and back: coordinates and CRS.

Takes what users have: a `DataTree` with groups ``r10m``, ``r20m``, ``r60m`` (our
readers, EOPF), a `Dataset` on one 10 m grid (odc-stac, rioxarray), or a `DataArray`
with dims ``(time, band, y, x)`` (stackstac, cubo). Nothing is read here.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from s2sr_xr.bands import BANDS, canonical, group
from s2sr_xr.errors import GridError, MissingBandError, RadiometryError
from s2sr_xr.nodata import CEILING, FLOOR, declared

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from s2sr_xr.models.spec import ModelSpec

__all__ = [
    "Area",
    "Grid",
    "Ground",
    "Plane",
    "Scene",
    "check_nesting",
    "scene_of",
    "spatial_ref",
]

CELL = 60
"""Side of the cells that windows are made of, in metres: the coarsest pixel."""

FALSE_NORTHING = 10_000_000
"""UTM's northing of the equator in the south: where 60 m cells count from there."""

CENTRES = 'with stackstac: xy_coords="center"'
OWN_GRID = "the product's own UTM grid; super-resolve first, reproject the result"

Object = xr.DataTree | xr.Dataset | xr.DataArray

Ground = tuple[float, float, float, float]
"""West, south, east and north bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A grid of square pixels, north up, in one UTM zone."""

    crs: str
    """Coordinate reference system, as WKT."""

    x_edge: float
    """Easting of the left edge of the first column, in metres."""

    y_edge: float
    """Northing of the upper edge of the first row, in metres."""

    res: float
    """Side of a pixel, in metres."""

    shape: tuple[int, int]
    """Rows and columns."""

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """West, south, east and north edge, in metres."""
        rows, cols = self.shape
        return (
            self.x_edge,
            self.y_edge - rows * self.res,
            self.x_edge + cols * self.res,
            self.y_edge,
        )

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients, pixel corner to map, in rasterio's order."""
        return (self.res, 0.0, self.x_edge, 0.0, -self.res, self.y_edge)

    @property
    def phase(self) -> tuple[float, float]:
        """Distance of the corner from where Sentinel-2's cells count, in metres."""
        return self.x_edge, self.y_edge - _northing_zero(self.crs)

    def at(self, res: float) -> Grid:
        """Return the grid of pixels of `res` metres over the same ground."""
        west, south, east, north = self.extent
        shape = (round((north - south) / res), round((east - west) / res))
        return Grid(
            crs=self.crs, x_edge=west, y_edge=north, res=float(res), shape=shape
        )

    def part(self, rows: slice, cols: slice) -> Grid:
        """Return the grid of a window of pixels."""
        return Grid(
            crs=self.crs,
            x_edge=self.x_edge + cols.start * self.res,
            y_edge=self.y_edge - rows.start * self.res,
            res=self.res,
            shape=(rows.stop - rows.start, cols.stop - cols.start),
        )

    def coords(self) -> dict[str, Any]:
        """Return x and y as float64 pixel centres, and the CRS, ready for xarray."""
        rows, cols = self.shape
        x = self.x_edge + self.res * (np.arange(cols) + 0.5)
        y = self.y_edge - self.res * (np.arange(rows) + 0.5)
        names = {
            "units": "metre",
            "axis": "X",
            "standard_name": "projection_x_coordinate",
        }
        return {
            "y": (
                "y",
                y,
                names | {"axis": "Y", "standard_name": "projection_y_coordinate"},
            ),
            "x": ("x", x, names),
            "spatial_ref": spatial_ref(self),
        }


HALF = 180
"""Degrees around half of the globe."""


def _finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Area:
    """A bounding box, and the CRS that its numbers are in."""

    bounds: Ground
    """West, south, east and north bound; either order of a pair is put right.

    Degrees from a west above an east by more than half the globe are those of RFC 7946:
    they cross the antimeridian, as from 177 to -178.
    """

    crs: str | None = "EPSG:4326"
    """None for metres of the data's own zone."""

    def __post_init__(self) -> None:
        # min and max would pass over a NaN.
        if len(self.bounds) != 4 or not all(map(_finite, self.bounds)):
            raise GridError(
                f"The bounds of a window are four finite numbers; got {self.bounds}."
            )
        west, south, east, north = self.bounds
        if west > east and not (west - east > HALF and self._in_degrees()):
            west, east = east, west
        ordered = west, min(south, north), east, max(south, north)
        object.__setattr__(self, "bounds", ordered)

    def _in_degrees(self) -> bool:
        from pyproj import CRS
        from pyproj.exceptions import CRSError

        try:
            return bool(self.crs and CRS.from_user_input(self.crs).is_geographic)
        except CRSError as error:
            raise GridError(
                f"crs={self.crs!r} is none that is known: {error}"
            ) from None

    def on(self, grid: Grid) -> Ground:
        """Return the bounding box in the metres of `grid`."""
        if self.crs is None:
            return self.bounds
        from pyproj import Transformer
        from pyproj.exceptions import ProjError

        try:
            change = Transformer.from_crs(self.crs, grid.crs, always_xy=True)
            # Straight edges in degrees are bent in metres.
            moved = change.transform_bounds(*self.bounds, densify_pts=21)
        except ProjError as error:
            raise GridError(
                f"The area {self.bounds} in {self.crs} has no place in the "
                f"data's zone: {error}. Give longitude and latitude, or name their crs."
            ) from error
        if not all(map(math.isfinite, moved)):
            raise GridError(
                f"The area {self.bounds} in {self.crs} has no place in the data's "
                "zone. Give longitude and latitude, or name their crs; metres of the "
                "zone itself are x=(west, east) with y=(south, north)."
            )
        west, south, east, north = moved
        return west, south, east, north

    def window(self, grid: Grid) -> tuple[slice, slice] | None:
        """Return rows and columns of the whole cells that meet it, None if none do."""
        west, south, east, north = self.on(grid)
        left, top = grid.phase
        cols = _outward(west - left, east - left, left, grid.res, grid.shape[1])
        # Downwards: rows run from north to south, cells count from `zero` northwards.
        rows = _outward(
            grid.y_edge - north, grid.y_edge - south, -top, grid.res, grid.shape[0]
        )
        return None if cols is None or rows is None else (rows, cols)

    def slices(self, grid: Grid) -> tuple[slice, slice]:
        """Return rows and columns of the whole cells that meet it.

        Raises
        ------
        GridError
            None do.
        """
        found = self.window(grid)
        if found is None:
            raise GridError(
                f"The window (west, south, east, north) = {self.on(grid)} does not "
                f"meet the data, which cover {grid.extent}, in metres of their own UTM "
                "zone."
            )
        return found


def _outward(
    first: float, last: float, phase: float, res: float, n: int
) -> slice | None:
    """Return the pixels of the whole cells that meet [`first`, `last`], in metres.

    Metres count from the edge of the first pixel, which lies `phase` metres from where
    cells begin.
    """
    start = math.floor((first + phase) / CELL) * CELL - phase
    stop = math.ceil((last + phase) / CELL) * CELL - phase
    lower, upper = max(round(start / res), 0), min(round(stop / res), n)
    return slice(lower, upper) if lower < upper else None


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
    """Return what the flags of pixels of `res` metres are called beside the bands.

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
            raise GridError(f"{band} stands twice in the object; drop one ({name!r}).")
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

    Only where that is no reflectance: a 0 may be left over from counts, of which it was
    taken away already.
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


def grid_of(obj: xr.Dataset | xr.DataArray) -> Grid:
    """Return the pixel grid of an object, from its coordinates and CRS.

    Raises
    ------
    GridError
        Dims, spacing, direction, CRS or corner are not those of a Sentinel-2 product.
    """
    if missing := [d for d in ("y", "x") if d not in obj.dims]:
        raise GridError(
            f"The object has dims {tuple(obj.dims)}, without {' and '.join(missing)}; "
            "an image with dims (time, y, x) or (y, x) is needed."
        )
    if empty := [d for d in ("time", "y", "x") if obj.sizes.get(d) == 0]:
        raise GridError(
            f"The selection is empty along {' and '.join(empty)}: the area asked for "
            "does not meet the data."
        )
    if bare := [d for d in ("y", "x") if d not in obj.coords]:
        raise GridError(
            f"Without coordinates along {' and '.join(bare)} the pixels lie nowhere; "
            "assign the pixel centres in metres (float64)."
        )
    crs = _crs_wkt(obj)
    x, y = (obj[d].to_numpy().astype(np.float64) for d in ("x", "y"))
    res = _spacing(obj, x, y)
    grid = Grid(
        crs=crs,
        # To the millimetre: coordinates that were computed carry noise.
        x_edge=round(float(x[0] - res / 2), 3),
        y_edge=round(float(y[0] + res / 2), 3),
        res=res,
        shape=(y.size, x.size),
    )
    _check_corner(grid)
    return grid


def _spacing(obj: xr.Dataset | xr.DataArray, x: np.ndarray, y: np.ndarray) -> float:
    """Return the side of a pixel; a single pixel says it in the CRS's GeoTransform."""
    steps = {"x": np.diff(x), "y": -np.diff(y)}
    known = [float(abs(s[0])) for s in steps.values() if s.size]
    if not known:
        return _single_pixel(obj)
    res = known[0]
    for name, step in steps.items():
        off = ~np.isclose(step, res, rtol=0, atol=1e-6)
        if off.all() and np.allclose(step, -res, rtol=0, atol=1e-6) and step.size:
            way = "y ascends" if name == "y" else "x descends"
            raise GridError(
                f"{way}; Sentinel-2 images run from north to south and west to east. "
                f'Use obj.sortby("{name}", ascending={name == "x"}).'
            )
        if off.any():
            bad = int(np.flatnonzero(off)[0])
            raise GridError(
                f"{name} is not regular: step {step[bad]:g} m after index {bad}, where "
                f"{res:g} m is the pixel. Sort it, and fill gaps with NaN rows."
            )
    return round(res, 6)


def _single_pixel(obj: xr.Dataset | xr.DataArray) -> float:
    mapping = obj.coords.get("spatial_ref")
    text = mapping.attrs.get("GeoTransform") if mapping is not None else None
    if text is None:
        raise GridError(
            "One pixel alone does not say how large it is; give the GeoTransform in "
            "spatial_ref (obj.rio.write_transform), or a larger selection."
        )
    return float(str(text).split()[1])


def _check_corner(grid: Grid) -> None:
    """Raise unless the edges lie where Sentinel-2's pixels of this size do."""
    off = [p % grid.res for p in grid.phase]
    off = [min(o, grid.res - o) for o in off]
    if max(off) < 1e-3:
        return
    if all(abs(o - grid.res / 2) < 1e-3 for o in off):
        half = grid.res / 2
        raise GridError(
            f"x[0]={grid.x_edge + half:g}, y[0]={grid.y_edge - half:g} are pixel "
            f"corners, not centres. Load with pixel centres ({CENTRES}), or shift x by "
            f"{half:g}, and y by {-half:g} from upper or {half:g} from lower corners."
        )
    raise GridError(
        f"The {grid.res:g} m pixels are shifted by ({off[0] / grid.res:.2f}, "
        f"{off[1] / grid.res:.2f}) px against Sentinel-2's grid: they were resampled. "
        f"Load {OWN_GRID}."
    )


def _crs_wkt(obj: xr.Dataset | xr.DataArray) -> str:
    """Return the CRS as WKT, from where CF, rioxarray, odc or stackstac keep it."""
    found = [
        v.attrs[key]
        for v in obj.coords.values()
        if v.ndim == 0
        for key in ("crs_wkt", "spatial_ref")
        if key in v.attrs
    ]
    if not found and "epsg" in obj.coords and obj["epsg"].ndim == 0:
        found = [f"EPSG:{obj['epsg'].item():.0f}"]
    if not found and obj.attrs.get("crs"):
        found = [str(obj.attrs["crs"])]
    if not found:
        raise GridError(
            "The object has no CRS. Give it one: obj.rio.write_crs('EPSG:326xx')."
        )
    return _utm_wkt(found[0])


@functools.lru_cache(maxsize=128)
def _utm_wkt(text: str) -> str:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise GridError(
            f"The object's CRS is {text!r}, which is none that is known. Give it one: "
            "obj.rio.write_crs('EPSG:326xx')."
        ) from error
    epsg = crs.to_epsg() or 0
    if epsg not in range(32601, 32661) and epsg not in range(32701, 32761):
        raise GridError(
            f"The grid is in {crs.name!r}, not in a UTM zone. Load {OWN_GRID}."
        )
    return str(CRS.from_epsg(epsg).to_wkt())


@functools.lru_cache(maxsize=128)
def _northing_zero(wkt: str) -> int:
    from pyproj import CRS

    return FALSE_NORTHING if (CRS.from_wkt(wkt).to_epsg() or 0) >= 32701 else 0


@functools.lru_cache(maxsize=128)
def _cf_attrs(wkt: str) -> dict[str, Any]:
    from pyproj import CRS

    return dict(CRS.from_wkt(wkt).to_cf())


def spatial_ref(grid: Grid) -> xr.Variable:
    """Return the scalar CRS coordinate of a grid: CF, WKT and GDAL's GeoTransform."""
    res, _, x_edge, _, _, y_edge = grid.transform
    attrs = _cf_attrs(grid.crs) | {
        "spatial_ref": grid.crs,
        "GeoTransform": f"{x_edge:.10g} {res:.10g} 0 {y_edge:.10g} 0 {-res:.10g}",
    }
    return xr.Variable((), np.int64(0), attrs)


def check_nesting(scene: Scene, spec: ModelSpec) -> Grid:
    """Return the grid of cells of `spec` under the bands it takes.

    Raises
    ------
    MissingBandError
        A band that the model takes is not there.
    GridError
        The bands cover different ground, or not whole cells.
    """
    if missing := [b for b in spec.bands if b not in scene.planes]:
        raise MissingBandError(
            f"{spec.name} takes {', '.join(missing)}, which the data do not have (they "
            f"have {', '.join(sorted(scene.planes))}). Load them, or choose another "
            'model: "bicubic" takes each band alone, s2sr_xr.list_models() lists all.'
        )
    grids = {b: scene.planes[b].grid for b in spec.bands}
    (first, grid), *others = grids.items()
    for band, other in others:
        if other.crs != grid.crs or other.extent != grid.extent:
            raise GridError(_unnested(first, grid, band, other))
    for band, count in ((b, spec.per_cell(b)) for b in spec.bands):
        native = scene.planes[band].native
        if native * count != spec.cell:
            raise GridError(
                f"{spec.name} takes {band} at {spec.cell / count:g} m, but the data "
                f"have it at {native} m."
            )
    off = [round(p % spec.cell, 3) for p in grid.phase]
    rest = [round(n * grid.res % spec.cell, 3) for n in grid.shape]
    if any(off) or any(rest):
        raise GridError(
            f"The area is not made of whole {spec.cell} m cells, which "
            f"{', '.join(spec.output.names)} need: it starts {off[0]:g} m east and "
            f"{(spec.cell - off[1]) % spec.cell:g} m south of a cell's corner and is "
            f"{grid.shape[1] * grid.res:g} x {grid.shape[0] * grid.res:g} m large. Cut "
            "it with obj.s2sr.window(x=..., y=...), which snaps to whole 60 m cells, "
            "or leave these bands out: bands=[...]."
        )
    return grid.at(spec.cell)


def _unnested(a: str, grid: Grid, b: str, other: Grid) -> str:
    return (
        f"{a} covers (west, south, east, north) = {grid.extent} and {b} covers "
        f"{other.extent}: their pixels do not nest. Cut all groups at once with "
        "obj.s2sr.window(x=..., y=...), or leave bands out: bands=[...]."
    )
