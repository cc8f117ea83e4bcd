"""From a result to cloud-optimised GeoTIFFs: what desktop programs open today.

Blocks go into a plain tiled GeoTIFF first, which GDAL then rewrites as a COG: with
overviews, in the order that a COG needs. Files appear under their names when whole.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.engine.job import QUALITY
from s2sr_xr.errors import GridError, StoreError
from s2sr_xr.output.geotiff import Facts, check, translate, write_raw
from s2sr_xr.output.zarr.attrs import geotransform
from s2sr_xr.output.zarr.packing import judge_clipped
from s2sr_xr.output.zarr.storage import storing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

__all__ = ["to_cog"]

CACHE_MB = 64
"""What GDAL may keep of the pixels that it was given."""


def to_cog(
    ds: xr.Dataset, path: str | Path, *, overwrite: bool = False
) -> dict[str, Path]:
    """Write a result as cloud-optimised GeoTIFFs: the bands in one, flags in another.

    Bands are packed to uint16 as in `to_zarr`, with scale and offset where GDAL looks
    for them, 0 where nothing was recorded, their names as descriptions. Overviews are
    means of the valid pixels; those of the flags hold the most frequent value. Blocks
    of a lazy result are computed by Dask's current scheduler, as many at a time as
    this machine has cores, and written here. Next to the file there must be room for
    its pixels, uncompressed, while it is made.

    Parameters
    ----------
    ds
        A result of this library, or anything made from it on a georeferenced grid:
        float reflectance, ``(y, x)`` or one time of it, and perhaps `quality`.
    path
        Local file, such as ``"five.tif"``. Its directory is made.
    overwrite
        Whether files that exist are replaced.

    Returns
    -------
    dict
        The files: ``"bands"``, at `path`, and ``"quality"``, at
        ``<name>_quality.tif``, if `ds` has it: bands and flags differ in type, which
        a GeoTIFF does not allow.

    Raises
    ------
    StoreError
        A file exists, cannot be written, a variable is neither a band nor `quality`,
        or more than a hundredth of the pixels do not fit 16 bits of reflectance.
    GridError
        `ds` has several times, no regular grid or no CRS: L1B in the geometry of the
        sensor has its place in a Zarr store.

    Warns
    -----
    S2SRWarning
        If more than one pixel in ten thousand was clipped.
    """
    image = _one_time(ds)
    facts = _facts(image)
    paths = _paths(path, image, overwrite=overwrite)
    final = paths["bands"]
    with storing("write the COG", final), _gdal(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=final.parent, prefix=f".{final.stem}-") as folder:
            raw = {name: Path(folder, f"{name}.raw.tif") for name in paths}
            written = write_raw(image, facts, raw)
            _judge(sum(w.clipped for w in written), facts, final)
            made = {name: Path(folder, f"{name}.tif") for name in paths}
            for name in paths:
                translate(raw[name], made[name], name)
                raw[name].unlink()
                check(made[name], name, written)
            if "quality" not in paths:
                _beside(paths["bands"]).unlink(missing_ok=True)
            for name, at in reversed(paths.items()):  # the bands last: all is there
                made[name].replace(at)
    return paths


def _one_time(ds: xr.Dataset) -> xr.Dataset:
    """Return the image of a Dataset, without its time axis."""
    times = ds.sizes.get("time", 1)
    if times != 1:
        raise GridError(
            f"The Dataset has {times} times; a COG holds one image. Write one a time, "
            "ds.isel(time=i).s2sr.to_cog(...), or all to a Zarr store: "
            "ds.s2sr.to_zarr(path)."
        )
    return ds.isel(time=0) if "time" in ds.dims else ds


def _facts(image: xr.Dataset) -> Facts:
    """Return what the files say of `image`; raise unless a COG can hold it."""
    import rioxarray  # noqa: F401 - registers .rio

    bands = tuple(b for b in BANDS if b in image.data_vars)
    _check_variables(image, bands)
    crs = image.rio.crs
    raw = [b for b in bands if image[b].attrs.get("units") == "count"]
    if crs is None or raw:
        raise GridError(
            f"{'Counts of ' + ', '.join(raw) if raw else 'Pixels without a CRS'} "
            "make no COG: images in the geometry of the sensor lie nowhere on a map. "
            "Write them to a Zarr store, obj.s2sr.to_zarr(path); if the grid has a "
            "CRS, say which: obj.rio.write_crs('EPSG:326xx')."
        )
    return Facts(
        bands=bands,
        shape=(image.sizes["y"], image.sizes["x"]),
        transform=geotransform(image),
        crs=crs.to_wkt(),
    )


def _check_variables(image: xr.Dataset, bands: tuple[str, ...]) -> None:
    if not bands:
        raise StoreError(
            f"There is no band to write; the Dataset has {list(image.data_vars)}."
        )
    for name, array in image.data_vars.items():
        if array.dims != ("y", "x"):
            raise GridError(
                f"{name} has dims {array.dims}; a COG holds (y, x) images. Drop it, or "
                "transpose it."
            )
        packed = name in bands and array.dtype.kind == "f"
        if not packed and not (name == QUALITY and array.dtype == np.uint8):
            raise StoreError(
                f"{name} ({array.dtype}) is not a band in float reflectance, and a COG "
                f"holds one type. Leave it out, ds.drop_vars({str(name)!r}), and write "
                f"it by itself: ds[{str(name)!r}].rio.to_raster(path, driver='COG')."
            )


def _paths(path: str | Path, image: xr.Dataset, *, overwrite: bool) -> dict[str, Path]:
    if "://" in str(path):
        raise StoreError(
            f"{path} is a URL; a COG is written to a local path. Copy it from there.",
            store=str(path),
        )
    bands = Path(path).absolute()
    paths = {"bands": bands}
    if QUALITY in image.data_vars:
        paths["quality"] = _beside(bands)
    there = [str(p) for p in paths.values() if p.exists()]
    if there and not overwrite:
        raise StoreError(
            f"{' and '.join(there)} exists. Pass overwrite=True to replace it, or "
            "choose another path.",
            store=str(path),
        )
    return paths


def _beside(bands: Path) -> Path:
    """Return where the flags of an image lie."""
    return bands.with_name(f"{bands.stem}_{QUALITY}{bands.suffix or '.tif'}")


@contextmanager
def _gdal(path: Path) -> Iterator[None]:
    """Turn what GDAL says in the body into a StoreError, and bound its cache."""
    from rasterio import Env
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        # GDAL's own cache is a twentieth of the machine's memory: 5490 x 5490 px of
        # four bands took 805 MiB with it, 529 so, at the same speed.
        with Env(GDAL_CACHEMAX=CACHE_MB):
            yield
    except (RasterioError, CPLE_BaseError) as error:
        raise StoreError(
            f"Cannot write the COG {path}: {error}. Check the path, its permissions "
            "and the free space, then run again.",
            store=str(path),
        ) from error


def _judge(clipped: int, facts: Facts, path: Path) -> None:
    judge_clipped(
        clipped,
        len(facts.bands) * facts.shape[0] * facts.shape[1],
        facts.bands,
        path,
        f"{path} is not written. Variables named like bands are stored as "
        "reflectance: divide counts by 10000, or rename what is something else and "
        "write it by itself.",
    )
