"""Bands read by stackstac, decoded here: for those who have it, and know it.

stackstac 0.5.1 finds no CRS in what pystac writes, takes bounds from longitude and
latitude, snaps them to multiples of the pixel (which half of the 60 m grids are not),
puts coordinates on pixel corners and turns missing objects into no-data. So it is given
items that say only what it understands, and every choice is made for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from s2sr_xr.core.reflectance import decode
from s2sr_xr.errors import RadiometryError, ReadError
from s2sr_xr.readers.fetch.address import gdal_name, is_remote
from s2sr_xr.readers.fetch.source import BandSource
from s2sr_xr.readers.fetch.source_protocol import DIMS
from s2sr_xr.readers.tree import show_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.reflectance import Radiometry
    from s2sr_xr.readers.item import Item
    from s2sr_xr.readers.tree import Layer

__all__ = ["show_by_stackstac"]


def show_by_stackstac(
    items: Sequence[Item], layers: Sequence[Layer], part: Grid, chunk: int | None
) -> dict[str, xr.Variable]:
    """Return layers of one pixel size on the grid `part`, bands as stackstac's arrays.

    Raises
    ------
    ImportError
        stackstac is not installed.
    ReadError
        An address is to be signed when it is read, which stackstac cannot.
    RadiometryError
        A no-data count is not 0, the only one that comes out of stackstac here.
    """
    sources = [la.source for la in layers if isinstance(la.source, BandSource)]
    codes = [la for la in layers if not isinstance(la.source, BandSource)]
    grids = {la.name: la.grid for la in layers}
    shown = show_layers(items, codes, part, chunk)
    if not sources:
        return shown
    try:
        import stackstac
    except ImportError as error:
        raise ImportError(
            "reader='stackstac' needs the package stackstac: pip install "
            "'s2sr-xr[stackstac]', or use reader='native'."
        ) from error
    plain = [
        {
            "id": item.id,
            # It says only what stackstac understands.
            "properties": {"datetime": f"{item.time.astype('datetime64[us]')}Z"},
            "assets": {s.band: _plain_asset(s, n, grids[s.band]) for s in sources},
        }
        for n, item in enumerate(items)
    ]
    counts = stackstac.stack(
        plain,
        assets=[source.band for source in sources],
        epsg=_epsg(part),
        bounds=part.extent,
        resolution=part.res,
        snap_bounds=False,
        xy_coords="center",
        chunksize=(1, 1, chunk, chunk),
        dtype=np.dtype("uint16"),
        fill_value=np.uint16(0),
        rescale=False,
        sortby_date=False,
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
        # With more threads a broken block of a JPEG 2000 file raises nothing.
        gdal_env=stackstac.DEFAULT_GDAL_ENV.updated(always={"GDAL_NUM_THREADS": 1}),
    ).data
    assert counts.shape[2:] == part.shape
    bands = {
        source.band: xr.Variable(DIMS, _decoded(counts[:, n], source.radiometry))
        for n, source in enumerate(sources)
    }
    return bands | shown


def _decoded(counts: Any, meanings: Sequence[Radiometry]) -> Any:  # noqa: ANN401 - Dask
    """Return a Dask array of counts as reflectance, each time step by its own rule."""
    import dask.array as da

    meta = np.empty((0, 0, 0), np.float32)
    return da.concatenate(
        [
            counts[n : n + 1].map_blocks(decode, meaning, dtype=np.float32, meta=meta)
            for n, meaning in enumerate(meanings)
        ]
    )


def _epsg(grid: Grid) -> int:
    from pyproj import CRS

    return int(CRS.from_wkt(grid.crs).to_epsg())


def _plain_asset(source: BandSource, step: int, grid: Grid) -> dict[str, Any]:
    """Return the image of one time step as stackstac understands it."""
    asset, nodata = source.assets[step], source.radiometry[step].nodata
    if asset.sign is not None and "sig=" not in asset.href:
        raise ReadError(
            f"{asset.band} of {asset.item_id} needs a signature that stackstac does "
            f"not make ({asset.shown}). Sign the items first "
            "(planetary_computer.sign), or use reader='native'.",
            item=asset.item_id,
            band=asset.band,
        )
    if nodata != 0:
        raise RadiometryError(
            f"{asset.band} of {asset.item_id} marks missing pixels with "
            f"{nodata}; reader='stackstac' takes 0 only. Use "
            "reader='native'.",
            item=asset.item_id,
            band=asset.band,
        )
    return {
        "href": asset.href if is_remote(asset.href) else gdal_name(asset.href),
        "type": "image/jp2" if asset.driver == "JP2OpenJPEG" else "image/tiff",
        "proj:epsg": _epsg(grid),
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform),
    }
