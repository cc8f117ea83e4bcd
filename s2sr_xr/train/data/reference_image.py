"""What a finer sensor saw of a scene: the reference of the recipe `pairs`.

PlanetScope, Venus, an aerial image: any raster of reflectance in the scene's own UTM
zone, with pixels of 5 m or less. Pixels that lie on the scene's 5 m grid are taken as
they are; others become the mean of what they cover, by area (GDAL's "average").
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.bands import canonical
from s2sr_xr.core.scene import scene_of
from s2sr_xr.engine.nesting import check_nesting
from s2sr_xr.errors import GridError, MissingBandError, RadiometryError, ReadError
from s2sr_xr.models.spec import BandGroup
from s2sr_xr.train.data.scenes import source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import xarray as xr

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.scene import Object
    from s2sr_xr.models.spec import ModelSpec
    from s2sr_xr.train.data.scenes import Source

__all__ = ["open_finer", "with_finer"]


def open_finer(
    path: str | Path, *, bands: Sequence[str] = (), scale: float | None = None
) -> xr.Dataset:
    """Return a raster of a finer sensor, one variable a band, not read yet.

    Parameters
    ----------
    path
        Anything that rasterio opens.
    bands
        What its bands are, by any name of a catalogue; empty: as its band descriptions
        say. One that is called ``""`` is left out.
    scale
        Reflectance of one count, such as 1e-4 of PlanetScope, whatever the file says;
        None: as it says.

    Returns
    -------
    xr.Dataset
        float32, dims ``(y, x)``, NaN where the file has no data.

    Raises
    ------
    ReadError
        There is no such file.
    MissingBandError
        A band has no name that is known, or two have the same.
    RadiometryError
        It holds counts, and does not say what one is worth.
    """
    import rioxarray
    from rasterio.errors import RasterioError

    try:
        image: Any = rioxarray.open_rasterio(
            path, masked=True, mask_and_scale=scale is None
        )
    except (RasterioError, OSError) as error:
        raise ReadError(f"{path} cannot be read as a raster: {error}") from error
    if scale is not None:
        image = image.astype(np.float32) * np.float32(scale)
    elif np.dtype(image.encoding.get("rasterio_dtype", image.dtype)).kind in "iu":
        scaling = image.encoding.get("scale_factor", 1.0)
        if scaling == 1.0:
            raise RadiometryError(
                f"{path} holds integers and does not say what one count is worth. Say "
                "scale=1e-4, or what its provider says."
            )
    names = list(bands) or list(np.atleast_1d(image.attrs.get("long_name", ())))
    if len(names) != image.sizes["band"]:
        raise MissingBandError(
            f"{path} has {image.sizes['band']} bands and {len(names)} names. Say which "
            'they are, such as bands=["B02", "B03", "B04", "B08"].'
        )
    known = {i: canonical(str(n)) for i, n in enumerate(names) if str(n)}
    if strange := [str(names[i]) for i, band in known.items() if band is None]:
        raise MissingBandError(
            f"{path}: {', '.join(strange)} is not the name of a Sentinel-2 band. Say "
            'which they are, and "" for what is none.'
        )
    if twice := [band for band, n in Counter(known.values()).items() if n > 1]:
        raise MissingBandError(
            f"{path}: {', '.join(map(str, twice))} appears more than once. Say which "
            'band it is, and "" for the others.'
        )
    flat = image.astype(np.float32).drop_attrs().reset_coords(drop=True)
    flat = flat.assign_coords(spatial_ref=image["spatial_ref"])
    return flat.to_dataset(dim="band").rename(  # type: ignore[no-any-return]
        {image.band.values[i]: band for i, band in known.items()}
    )[list(known.values())]


def with_finer(
    obj: Object, spec: ModelSpec, name: str, finer: xr.Dataset, *, weight: float = 1.0
) -> Source:
    """Return a scene to take patches from where a finer image covers it.

    Parameters
    ----------
    obj
        The scene, as `s2sr_xr.train.data.scenes.source` takes it.
    spec
        The network: its inputs, and the bands and pixels that it makes.
    name
        Of the scene, for messages.
    finer
        Reflectance of some bands that the network makes; NaN where missing. Read here
        if its pixels are not those of the scene's fine grid.
    weight
        As in `source`.

    Returns
    -------
    Source
        Whole cells that the finer image covers. One group more than ``spec.inputs``:
        the bands that it has, in the order of ``spec.output``.

    Raises
    ------
    MissingBandError
        It has no band that the network makes; or as `source`.
    GridError
        Another CRS, pixels that are too large, no whole cell in common; or as `source`.
    """
    names = tuple(b for b in spec.output.names if b in finer)
    if not names:
        raise MissingBandError(
            f"{name}: the finer image has {', '.join(map(str, finer.data_vars))}; the "
            f"network makes {', '.join(spec.output.names)}.",
            scene=name,
        )
    whole = source(obj, spec, name, weight=weight)
    grid = check_nesting(scene_of(obj), spec)
    _check_crs(finer, grid, name)
    rows, cols = _overlap(finer, grid, name)
    fine = grid.part(rows, cols).at(spec.cell / spec.output.per_cell)
    layers = _on_grid(finer[list(names)], fine, name)
    return replace(
        _part(whole, rows, cols),
        groups=(*whole.groups, BandGroup(names=names, per_cell=spec.output.per_cell)),
        layers=(*_part(whole, rows, cols).layers, layers),
    )


def _check_crs(finer: xr.Dataset, grid: Grid, name: str) -> None:
    import rioxarray  # noqa: F401 - registers .rio
    from pyproj import CRS

    own, other = CRS.from_wkt(grid.crs), finer.rio.crs
    if other is None or CRS.from_user_input(other).to_epsg() != own.to_epsg():
        said = "no CRS" if other is None else CRS.from_user_input(other).name
        raise GridError(
            f"{name} lies in {own.name}, and the finer image in {said}. Warp it first, "
            f"such as with finer.rio.reproject('EPSG:{own.to_epsg()}').",
            scene=name,
        )


def _overlap(finer: xr.Dataset, grid: Grid, name: str) -> tuple[slice, slice]:
    """Return the rows and columns of cells that a finer image covers as a whole."""
    west, south, east, north = finer.rio.bounds()
    first = [(grid.y_edge - north) / grid.res, (west - grid.x_edge) / grid.res]
    last = [(grid.y_edge - south) / grid.res, (east - grid.x_edge) / grid.res]
    near = 1e-6
    found = [
        slice(max(math.ceil(a - near), 0), min(math.floor(b + near), n))
        for a, b, n in zip(first, last, grid.shape, strict=True)
    ]
    if any(s.start >= s.stop for s in found):
        raise GridError(
            f"{name} covers (west, south, east, north) = {grid.extent} and the finer "
            f"image {(west, south, east, north)}: they share no whole cell of "
            f"{grid.res:g} m.",
            scene=name,
        )
    return found[0], found[1]


def _part(scene: Source, rows: slice, cols: slice) -> Source:
    """Return some cells of a scene."""

    def cut(layer: xr.Variable, n: int) -> xr.Variable:
        return layer.isel(
            y=slice(rows.start * n, rows.stop * n),
            x=slice(cols.start * n, cols.stop * n),
        )

    classes = scene.classes
    return replace(
        scene,
        layers=tuple(
            tuple(cut(layer, group.per_cell) for layer in layers)
            for group, layers in zip(scene.groups, scene.layers, strict=True)
        ),
        cells=(rows.stop - rows.start, cols.stop - cols.start),
        classes=None if classes is None else cut(classes, scene.classes_per_cell),
    )


def _on_grid(finer: xr.Dataset, grid: Grid, name: str) -> tuple[xr.Variable, ...]:
    """Return the bands of a finer image on a grid that it covers."""
    from affine import Affine
    from rasterio.enums import Resampling

    across, down = (abs(float(r)) for r in finer.rio.resolution())
    if max(across, down) > grid.res * (1 + 1e-6):
        raise GridError(
            f"{name}: the finer image has pixels of {across:g} x {down:g} m, and truth "
            f"at {grid.res:g} m is needed.",
            scene=name,
        )
    west, _, _, north = finer.rio.bounds()
    steps = [(grid.x_edge - west) / grid.res, (north - grid.y_edge) / grid.res]
    same = math.isclose(across, grid.res) and math.isclose(down, grid.res)
    if same and all(abs(s - round(s)) < 1e-3 for s in steps):
        left, top = map(round, steps)
        here = {
            "y": slice(top, top + grid.shape[0]),
            "x": slice(left, left + grid.shape[1]),
        }
        return tuple(b.variable.isel(here) for b in finer.data_vars.values())
    moved = finer.astype(np.float32).rio.reproject(
        finer.rio.crs,
        transform=Affine(*grid.transform),
        shape=grid.shape,
        resampling=Resampling.average,
        nodata=np.nan,
    )
    return tuple(b.variable for b in moved.data_vars.values())
