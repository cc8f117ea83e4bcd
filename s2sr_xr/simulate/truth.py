"""The reference of a simulated scene, at 10 m and finer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.footprint import COG, footprint
from s2sr_xr.errors import MissingBandError
from s2sr_xr.simulate.country import landscape
from s2sr_xr.simulate.item import write_cog
from s2sr_xr.simulate.observation import (
    CORNER,
    EPSG,
    MARGIN,
    SEEN,
    observe,
    surface,
    top_of_atmosphere,
)
from s2sr_xr.simulate.texture import PITCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pystac
    import xarray as xr
    from numpy.typing import NDArray


__all__ = ["add_truth", "finer_truth", "open_truth"]

_TRUTH_SCALE, _TRUTH_OFFSET = 2.5e-5, -0.1


def open_truth(item: pystac.Item) -> xr.Dataset:
    """Return what the sensor would see with 10 m pixels in every band, without noise.

    The truth of a band has the same MTF at the Nyquist frequency of 10 m pixels as the
    band has at that of its native ones: the point spread shrinks with the pixel. It is
    complete, also where the counts have no data.

    Parameters
    ----------
    item
        An item that `simulate_scene` wrote, or the same opened from its JSON file.

    Returns
    -------
    xr.Dataset
        One float32 variable a band, dims ``(y, x)``, reflectance in steps of 2.5e-5,
        no NaN. Coordinates are the centres of the 10 m pixels in metres, float64.

    Raises
    ------
    MissingBandError
        The item has no truth.
    """
    import rasterio
    import rioxarray  # noqa: F401 - registers .rio
    import xarray as xr

    asset = item.assets.get("truth")
    if asset is None or "truth" not in (asset.roles or ()):
        raise MissingBandError(
            f"Item {item.id!r} has no truth: only items of simulate_scene() do.",
            item=item.id,
        )
    with rasterio.open(asset.get_absolute_href()) as source:
        codes, names, crs = source.read(), source.descriptions, source.crs
        left, top, (step, _) = source.bounds.left, source.bounds.top, source.res
    rows, cols = codes.shape[1:]
    values = codes.astype(np.float32) * np.float32(_TRUTH_SCALE)
    values += np.float32(_TRUTH_OFFSET)
    truth = xr.Dataset(
        {
            name: (("y", "x"), band, {"units": "1", "long_name": f"{name} reflectance"})
            for name, band in zip(names, values, strict=True)
        },
        coords={
            "y": top - step * (np.arange(rows) + 0.5),
            "x": left + step * (np.arange(cols) + 0.5),
        },
    )
    georeferenced: xr.Dataset = truth.rio.write_crs(crs)
    return georeferenced


def finer_truth(item: pystac.Item) -> xr.Dataset:
    """Return what the sensor would see with 5 m pixels in every band, without noise.

    As `open_truth`, at the pitch of the simulated world, which is made again.

    Parameters
    ----------
    item
        An item that `simulate_scene` wrote, or the same opened from its JSON file.

    Returns
    -------
    xr.Dataset
        One float32 variable a band, dims ``(y, x)``, reflectance, no NaN. Coordinates
        are the centres of the 5 m pixels in metres, float64.

    Raises
    ------
    MissingBandError
        The item does not say which world it shows.
    """
    import xarray as xr

    from s2sr_xr.core.grid import Grid

    asset = item.assets.get("truth")
    seed = None if asset is None else asset.extra_fields.get("truth:seed")
    if asset is None or seed is None:
        raise MissingBandError(
            f"Item {item.id!r} has no finer truth: only items of simulate_scene() do, "
            "and older ones do not record their seed. Simulate it again.",
            item=item.id,
        )
    import rasterio
    from pyproj import CRS

    with rasterio.open(asset.get_absolute_href()) as source:
        side = source.width * 10
    rng = np.random.default_rng(seed)
    world = landscape(round(side / PITCH) + 2 * MARGIN, rng)
    light = surface if "L2A" in item.id else top_of_atmosphere
    grid = Grid(
        crs=CRS.from_epsg(EPSG).to_wkt(),
        x_edge=CORNER[0],
        y_edge=CORNER[1],
        res=PITCH,
        shape=(round(side / PITCH),) * 2,
    )
    bands = {
        name: (("y", "x"), observe(light(world, name), BANDS[name].mtf, pixel=5))
        for name in asset.extra_fields["truth:bands"]
    }
    return xr.Dataset(bands, grid.coords())


def add_truth(
    item: pystac.Item, truth: Mapping[str, NDArray[np.float32]], seed: int
) -> pystac.Item:
    """Write the reference next to the item, and save the item with it."""
    import pystac

    codes = [np.rint((v - _TRUTH_OFFSET) / _TRUTH_SCALE) for v in truth.values()]
    stack = np.stack([np.clip(c, 0, 65535).astype(np.uint16) for c in codes])
    home = Path(item.self_href).parent
    write_cog(home / "truth.tif", stack, CORNER, 10, EPSG, nodata=None, names=[*truth])
    item.add_asset(
        "truth",
        pystac.Asset(
            href="./truth.tif",
            title="Noiseless reflectance of every band at 10m",
            media_type=COG,
            roles=["truth"],
            extra_fields={"gsd": 10, "truth:bands": [*truth], "truth:seed": seed},
        ),
    )
    side = 10 * stack.shape[1]
    outline = [(CORNER[0] + x * side, CORNER[1] - y * side) for x, y in SEEN]
    item.geometry, item.bbox = footprint(outline, EPSG)
    item.save_object()
    return item
