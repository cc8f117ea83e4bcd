"""Images of single bands, or stacks of bands, that come without a catalogue.

Their headers say where they lie; only the user can say what their counts mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.radiometry import override
from s2sr_xr.errors import GridError, MissingBandError, RadiometryError, ReadError
from s2sr_xr.readers.fetch.address import without_query
from s2sr_xr.readers.fetch.asset import Asset, driver_of
from s2sr_xr.readers.fetch.window import read_header, use_image
from s2sr_xr.readers.item import Item, named_bands
from s2sr_xr.readers.place import asset_grid, check_ground, has_native_pixels
from s2sr_xr.readers.stac.items import sensing_time
from s2sr_xr.readers.tree import Image, check_chunks, make_tree, reflectance_layer

if TYPE_CHECKING:
    import datetime as dt
    import os

    import xarray as xr

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.reflectance import Radiometry

__all__ = ["located", "open_files"]

REMEDY = (
    'give radiometry={"offset": -1000} for products of baseline 04.00 and later, '
    '{"offset": 0} for older ones'
)


def open_files(
    files: Mapping[str, str | os.PathLike[str] | tuple[str | os.PathLike[str], int]],
    *,
    radiometry: Mapping[str, float],
    chunks: int | None = 2196,
    time: str | dt.date | np.datetime64 | None = None,
) -> xr.DataTree:
    """Return georeferenced images of one scene as a lazy tree of reflectance.

    Parameters
    ----------
    files
        GeoTIFF or JPEG 2000 file (or its http(s) URL) of each band, by ESA's identifier
        or STAC's common name. A band of a stack is given with its place in it, from 1:
        ``{"B02": ("stack.tif", 1), "B03": ("stack.tif", 2)}``. Each band has its native
        pixels, and all cover the same ground.
    radiometry
        What the counts mean: ``offset``, added before the scale; ``scale``, 1e-4 unless
        given; ``nodata``, the count of a missing pixel: the file's own unless given, 0
        where it has none. There is no default for the offset: files do not hold it, and
        a wrong guess is 0.1 of reflectance.
    chunks
        Side of a Dask chunk in 10 m pixels, a multiple of 6; 20 m and 60 m bands get
        the same ground. None for lazily indexed variables without Dask.
    time
        When the scene was seen, in UTC unless it says otherwise. Default: unknown, NaT.

    Returns
    -------
    xr.DataTree
        As `open_stac` returns it, with one time step: groups ``r10m``, ``r20m``,
        ``r60m``, those that have bands, with one variable a band: float32 reflectance,
        1.0 = full, negative values kept, NaN for no data, dims ``(time, y, x)``.
        ``item_id`` is the name of the first file.

    Raises
    ------
    MissingBandError
        No file, or a name that is not a band of Sentinel-2.
    RadiometryError
        `radiometry` does not say what the counts mean.
    GridError
        Two files for one band, no CRS, pixels that are not the band's own or do not
        nest.
    ChunkError
        Chunks do not hold whole 60 m pixels.
    ReadError
        A file is missing, damaged, of another format, or holds no integers. Pixels are
        read, and may fail, when they are computed.
    """
    check_chunks(chunks)
    meaning, nodata = _meaning(radiometry)
    assets = _assets(files)
    first = next(iter(assets.values())).item_id
    item = Item.of_product(first, np.datetime64("NaT", "ns"))
    if time is not None:
        properties = {"datetime": str(time)}
        moment = sensing_time({**item.facts, "properties": properties})
        item = replace(item, time=moment)
    images = {band: _image(asset, meaning, nodata) for band, asset in assets.items()}
    check_ground(
        first,
        {band: image.grid for band, image in images.items()},
        names={band: image.asset.shown for band, image in images.items()},
        remedy="Cut them to whole 60 m pixels that all have, without resampling.",
    )
    layers = [reflectance_layer([image]) for image in images.values()]
    return make_tree([item], layers, {"source": "files"}, chunks=chunks)


def located(asset: Asset, remedy: str) -> tuple[Asset, Grid]:
    """Return an image with its place, from its header, and its grid.

    `remedy` is what to do about pixels that are not the band's own.

    Raises
    ------
    GridError
        It has no CRS, or its pixels are not the band's own.
    ReadError
        Its header could not be read.
    """
    asset = read_header(asset)
    assert asset.transform is not None
    native = BANDS[asset.band].native
    if asset.crs is None:
        assign = "Write the CRS that it was made in (rio edit-info --crs EPSG:... FILE)"
        raise _wrong(asset, "has no CRS", assign)
    if not has_native_pixels(asset.band, asset.transform):
        a, b, _, d, e = asset.transform[:5]
        turned = "" if (b, d) == (0, 0) and a > 0 > e else ", turned or mirrored"
        what = f"has pixels of {abs(a):g} x {abs(e):g}{turned}, not {native} m north up"
        raise _wrong(asset, what, remedy)
    return asset, asset_grid(asset)


def _wrong(asset: Asset, what: str, remedy: str) -> GridError:
    return GridError(
        f"{asset.band} in {asset.shown} {what}. {remedy}.",
        item=asset.item_id,
        band=asset.band,
        href=asset.shown,
    )


# --- what was asked for ---------------------------------------------------------------


def _meaning(radiometry: object) -> tuple[Radiometry, int | None]:
    """Return what the counts mean, and the no-data count where the user says it."""
    given = dict(radiometry) if isinstance(radiometry, Mapping) else {}
    nodata = given.pop("nodata", None)
    if "offset" not in given:
        raise RadiometryError(
            f"radiometry={radiometry!r}: files do not say what their counts mean; "
            f"{REMEDY}."
        )
    whole = isinstance(nodata, int) and not isinstance(nodata, bool)
    if nodata is not None and not whole:
        raise RadiometryError(
            f"radiometry={radiometry!r}: nodata is a count, a whole number."
        )
    meaning = override(given)
    assert meaning is not None
    return meaning, nodata


def _assets(files: Mapping[str, Any]) -> dict[str, Asset]:
    """Return the images, in the order of the instrument."""
    if not files:
        raise MissingBandError('There are no files: give {"B02": "b02.tif", ...}.')
    names = named_bands(files)
    first, _ = _split(next(iter(files.values())))
    item_id = Path(without_query(first)).stem
    found: dict[str, Asset] = {}
    for band in BANDS:
        keys = [name for name, of in names.items() if of == band]
        if len(keys) > 1:
            raise GridError(f"{' and '.join(keys)} both are {band}; give one of them.")
        for key in keys:
            found[band] = _asset(item_id, band, files[key])
    return found


def _asset(item_id: str, band: str, said: object) -> Asset:
    href, index = _split(said)
    driver = driver_of(None, href)
    if driver is None:
        raise ReadError(
            f"{band}: {without_query(href)} is neither .tif nor .jp2; GeoTIFF and "
            "JPEG 2000 are read here. Convert it, or open it with rioxarray and use "
            "the Dataset's own .s2sr.",
            band=band,
            href=without_query(href),
        )
    return Asset(item_id=item_id, band=band, href=href, driver=driver, index=index)


def _split(said: Any) -> tuple[str, int | None]:  # noqa: ANN401 - see open_files
    """Return the address of an image, and the band of the file that it is."""
    path, index = said if isinstance(said, tuple) and len(said) == 2 else (said, None)
    whole = isinstance(index, int) and not isinstance(index, bool) and index >= 1
    if not isinstance(path, str | Path) and not hasattr(path, "__fspath__"):
        raise ReadError(f"{said!r} is not a file: give a path, or (path, band from 1).")
    if index is not None and not whole:
        raise ReadError(f"{said!r}: the bands of a file count from 1.")
    return str(path), index


# --- images ---------------------------------------------------------------------------


def _image(asset: Asset, meaning: Radiometry, nodata: int | None) -> Image:
    """Return an image with its place and what its counts mean."""
    asset, grid = located(
        asset,
        "Give the band at its native pixels; of bands that were resampled to 10 m, "
        "make a Dataset with rioxarray and use its own .s2sr",
    )
    if nodata is None:
        nodata = use_image(asset, lambda d: _declared(d, asset.index), "header")
    return Image(asset, grid, replace(meaning, nodata=nodata))


def _declared(dataset: Any, index: int | None) -> int:  # noqa: ANN401 - rasterio's
    """Return the no-data count of an open file, 0 where it has none."""
    value = dataset.nodatavals[(index or 1) - 1]
    return int(value) if value is not None and float(value).is_integer() else 0
