"""xarray objects to bands on one cell grid, and back: coordinates and CRS.

Takes what users have: a `DataTree` with groups ``r10m``, ``r20m``, ``r60m`` (our
readers, EOPF), a `Dataset` on one 10 m grid (odc-stac, rioxarray), or a `DataArray`
with dims ``(time, band, y, x)`` (stackstac, cubo). Nothing is read here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from s2sr_xr.errors import GridError

__all__ = ["Grid", "Ground", "spatial_ref"]

CELL = 60
"""Side of the cells that windows are made of, in metres: the coarsest pixel."""

FALSE_NORTHING = 10_000_000
"""UTM's northing of the equator in the south: where 60 m cells count from there."""

CENTRES = 'with stackstac: xy_coords="center"'
OWN_GRID = "the product's own UTM grid; super-resolve first, reproject the result"


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
            f"The object's CRS is {text!r}, which is unknown. Give it one: "
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
