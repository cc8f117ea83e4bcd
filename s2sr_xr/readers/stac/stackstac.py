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
from s2sr_xr.readers.fetch.address import is_remote
from s2sr_xr.readers.fetch.diagnosis import gdal_name
from s2sr_xr.readers.fetch.source_protocol import DIMS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.reflectance import Radiometry
    from s2sr_xr.readers.stac.items import Item
    from s2sr_xr.readers.tree import Image

__all__ = ["stacked"]


def stacked(
    items: Sequence[Item],
    images: Mapping[str, Sequence[Image]],
    part: Grid,
    chunk: int | None,
) -> dict[str, xr.Variable]:
    """Return the bands of one pixel size on the grid `part`, as Dask arrays.

    Raises
    ------
    ImportError
        stackstac is not there.
    ReadError
        An address is to be signed when it is read, which stackstac cannot.
    RadiometryError
        A no-data count is not 0, the only one that comes out of stackstac here.
    """
    try:
        import stackstac
    except ImportError as error:
        raise ImportError(
            "reader='stackstac' needs the package stackstac: pip install "
            "'s2sr-xr[stackstac]', or use reader='native'."
        ) from error
    plain = [
        _plain_item(item, {b: its[n] for b, its in images.items()})
        for n, item in enumerate(items)
    ]
    counts = stackstac.stack(
        plain,
        assets=list(images),
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
    return {
        band: xr.Variable(DIMS, _decoded(counts[:, n], [i.radiometry for i in its]))
        for n, (band, its) in enumerate(images.items())
    }


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


def _plain_item(item: Item, images: Mapping[str, Image]) -> dict[str, Any]:
    """Return an item that says only what stackstac understands."""
    return {
        "id": item.id,
        "properties": {"datetime": f"{item.time.astype('datetime64[us]')}Z"},
        "assets": {band: _plain_asset(image) for band, image in images.items()},
    }


def _plain_asset(image: Image) -> dict[str, Any]:
    asset, grid = image.asset, image.grid
    if asset.sign is not None and "sig=" not in asset.href:
        raise ReadError(
            f"{asset.band} of {asset.item_id} needs a signature that stackstac does "
            f"not make ({asset.shown}). Sign the items first "
            "(planetary_computer.sign), or use reader='native'.",
            item=asset.item_id,
            band=asset.band,
        )
    if image.radiometry.nodata != 0:
        raise RadiometryError(
            f"{asset.band} of {asset.item_id} marks missing pixels with "
            f"{image.radiometry.nodata}; reader='stackstac' takes 0 only. Use "
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
