"""A SAFE product, as ESA distributes it, to one lazy tree: native pixels, decoded.

Grid, offsets and angles come from the two metadata files. Nothing but these is read
when a product is opened.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from s2sr_xr.core.bands import BANDS, group
from s2sr_xr.core.nodata import DEFECT, SATURATED
from s2sr_xr.core.radiometry import offset_of
from s2sr_xr.core.reflectance import Radiometry
from s2sr_xr.errors import MissingBandError, RadiometryError, ReadError, S2SRWarning
from s2sr_xr.readers.fetch.asset import driver_of
from s2sr_xr.readers.item import NO_MODEL, named_bands
from s2sr_xr.readers.place import CLASSES, check_ground
from s2sr_xr.readers.safe.files import locate
from s2sr_xr.readers.safe.masks import LAYERS, QualityMasks
from s2sr_xr.readers.safe.metadata import OFFSETS
from s2sr_xr.readers.safe.product import open_granule
from s2sr_xr.readers.scene_classification import ClassSource
from s2sr_xr.readers.tree import (
    Image,
    Layer,
    check_chunks,
    make_tree,
    reflectance_layer,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import numpy as np
    import xarray as xr

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.readers.fetch.asset import Asset
    from s2sr_xr.readers.safe.metadata import Product
    from s2sr_xr.readers.safe.product import Found, Safe

__all__ = ["open_safe"]


def open_safe(
    path: str | os.PathLike[str],
    *,
    bands: Sequence[str] | None = None,
    chunks: int | None = 2196,
) -> xr.DataTree:
    """Return one tile of a Sentinel-2 SAFE product as a lazy tree of reflectance.

    Parameters
    ----------
    path
        Directory or zip of an L1C or L2A product, of any processing baseline; a zip is
        read in place. A product of several tiles is opened by one of its granules,
        ``NAME.SAFE/GRANULE/...`` (``NAME.zip/NAME.SAFE/GRANULE/...`` inside a zip).
    bands
        ESA's identifiers or STAC's common names. Default: all that the product holds,
        but not B10, which no model takes.
    chunks
        Side of a Dask chunk in 10 m pixels, a multiple of 6; 20 m and 60 m bands get
        the same ground. None for lazily indexed variables without Dask.

    Returns
    -------
    xr.DataTree
        As `open_stac` returns it, with one time step: groups ``r10m``, ``r20m``,
        ``r60m``, those that have bands, with one variable a band at its native pixel:
        float32 reflectance, 1.0 = full, negative values kept, NaN for no data, dims
        ``(time, y, x)``. A group has ``flags`` (uint8; 2 saturated, 4 product defect,
        in any of its bands) where the product has raster quality masks for all its
        bands, from baseline 04.00 on. ``r20m`` has ``SCL`` (uint8) where the product
        has a scene classification. Attributes hold level, platform, tile, orbit, times,
        and the mean angles of sun and view in degrees.

    Raises
    ------
    ReadError
        There is no such product, it is of another kind, or its metadata are damaged or
        not safe to read. Pixels are read, and may fail, when they are computed.
    MissingBandError
        A band that was asked for has no native image, or no band has.
    GridError
        The product holds several tiles, or its pixels do not nest.
    RadiometryError
        The metadata do not say what the counts of a band mean.
    ChunkError
        Chunks do not hold whole 60 m pixels.

    Warns
    -----
    S2SRWarning
        Images of bands are missing, or quality masks are missing or empty.
    """
    check_chunks(chunks)
    safe = open_granule(*locate(path))
    names, missing = _wanted(safe, bands)
    images = {band: _image(safe, band) for band in names}
    check_ground(safe.name, {band: image.grid for band, image in images.items()})
    left_out = [f"images of {', '.join(missing)} (missing)"] if missing else []
    layers: list[Layer] = []
    for res in (10, 20, 60):
        here = [band for band in names if BANDS[band].native == res]
        for band in here:
            layer = reflectance_layer([images[band]])
            layers.append(replace(layer, attrs={**layer.attrs, **_view(safe, band)}))
        if here:
            layers += _quality(safe, here, left_out)
    if left_out:
        warnings.warn(
            f"{safe.name}, left out: {'; '.join(left_out)}.", S2SRWarning, stacklevel=2
        )
    return make_tree([safe.item], layers, _attrs(safe, missing), chunks=chunks)


# --- bands ----------------------------------------------------------------------------


def _wanted(safe: Safe, bands: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the bands to open, in instrument order, and those that should be there."""
    there = {f.band for f in safe.images if f.band in BANDS and _is_native(f)}
    if bands is None:
        names = [b for b in BANDS if b in there and b != NO_MODEL]
        missing = [b for b in BANDS if b not in there and b != NO_MODEL]
        if not names:
            raise _missing(safe, missing, there)
        return names, missing
    named = named_bands(bands).values()
    names = [b for b in BANDS if b in named]
    missing = [b for b in names if b not in there]
    if missing or not names:
        raise _missing(safe, missing, there)
    return names, []


def _is_native(found: Found) -> bool:
    return found.res == BANDS[found.band].native


def _missing(safe: Safe, missing: Sequence[str], there: set[str]) -> MissingBandError:
    """Return the error that names the files that bands should have."""
    if not missing:
        return MissingBandError("No band was asked for: bands=[]. Name one, or None.")
    root = safe.files.show(f"{safe.granule}/IMG_DATA")
    coarser = {f.band for f in safe.images} - there - {CLASSES}
    copies = [b for b in missing if b in coarser]
    why = f" ({', '.join(copies)} only at other pixels than its own)" if copies else ""
    have = ", ".join(b for b in BANDS if b in there) or "none"
    return MissingBandError(
        f"{safe.name} has no image of {', '.join(missing)} at its native pixel{why}: "
        f"{', '.join(_expected(safe, b) for b in missing)} not found in {root}. It has "
        f"{have}. Fetch the files, or name the bands that are there: bands=[...].",
        item=safe.name,
        band=missing[0],
    )


def _expected(safe: Safe, band: str) -> str:
    """Return the pattern of the file that a band should have."""
    res = BANDS[band].native
    l2a = safe.product.level == "L2A"
    return f"R{res}m/*_{band}_{res}m.jp2" if l2a else f"*_{band}.jp2"


def _file_of(safe: Safe, band: str, res: int) -> str | None:
    """Return the file of a band, GeoTIFF before JPEG 2000."""
    found = [f.path for f in safe.images if (f.band, f.res) == (band, res)]
    tiffs = [p for p in found if driver_of(None, p) == "GTiff"]
    found = tiffs or found
    if len(found) > 1:
        raise ReadError(
            f"{' and '.join(map(safe.files.show, found))} both are {band}; remove one.",
            item=safe.name,
            band=band,
        )
    return found[0] if found else None


def _image(safe: Safe, band: str) -> Image:
    """Return the native image of a band."""
    res = BANDS[band].native
    path = _file_of(safe, band, res)
    assert path is not None
    grid = safe.grid(res)
    return Image(safe.asset(band, path, grid), grid, _radiometry(safe, band))


def _radiometry(safe: Safe, band: str) -> Radiometry:
    """Return what the counts of a band mean, as the product's own metadata say."""
    product, tag = safe.product, OFFSETS[safe.product.level]
    scale = 1 / product.quantification
    if product.offsets:
        if band not in product.offsets:
            raise RadiometryError(
                f"The metadata of {safe.name} have {tag} for "
                f"{', '.join(b for b in BANDS if b in product.offsets) or 'no band'}, "
                f"not for {band}. Fetch the product again, or leave {band} out.",
                item=safe.name,
                band=band,
            )
        offset, source = product.offsets[band], tag
    elif offset_of(product.baseline):
        raise RadiometryError(
            f"{safe.name} is of baseline {product.baseline}, but its metadata have no "
            f"{tag}: they are not the product's own. Fetch it again.",
            item=safe.name,
            band=band,
        )
    else:
        # Before 04.00, and in products that users made with an older Sen2Cor.
        offset, source = 0.0, f"baseline {product.baseline or 'unknown'} without {tag}"
    return Radiometry(scale=scale, offset=offset, nodata=product.nodata, source=source)


# --- masks and attributes -------------------------------------------------------------


def _quality(safe: Safe, bands: Sequence[str], left_out: list[str]) -> Iterator[Layer]:
    """Yield the flags of bands of one pixel size, and the scene classification.

    Incomplete flags are left out, so that no pixel looks sound for want of a mask, and
    named in `left_out`.
    """
    res = BANDS[bands[0]].native
    grid = safe.grid(res)
    sound = [b for b in bands if b in safe.masks and safe.files.size(safe.masks[b])]
    if len(sound) == len(bands):
        masks = tuple(_mask(safe, b, grid) for b in bands)
        yield Layer("flags", QualityMasks(masks=masks), grid, _FLAGS)
    elif safe.masks:
        without = ", ".join(b for b in bands if b not in sound)
        left_out.append(
            f"flags of {group(res)} (quality masks of {without} missing or empty)"
        )
    path = _file_of(safe, CLASSES, 20) if res == 20 else None
    if path is not None:
        classes = ClassSource(assets=(safe.asset(CLASSES, path, grid),))
        yield Layer(CLASSES, classes, grid, _class_attrs(safe.product))


_FLAGS = {
    "long_name": "what the product's quality masks say, in any band of the group",
    "flag_masks": [SATURATED, DEFECT],
    "flag_meanings": "saturated product_defect",
}


def _mask(safe: Safe, band: str, grid: Grid) -> Asset:
    """Return the quality mask of a band."""
    asset = safe.asset(band, safe.masks[band], grid)
    # The shape shows that it is the band's; masks may have no CRS.
    return replace(asset, index=LAYERS, transform=None, crs=None)


def _class_attrs(product: Product) -> dict[str, Any]:
    names = [name.removeprefix("SC_").lower() for _, name in product.classes]
    attrs: dict[str, Any] = {"long_name": "scene classification"}
    if names:
        attrs["flag_values"] = [code for code, _ in product.classes]
        attrs["flag_meanings"] = " ".join(n.replace(" ", "_") for n in names)
    return attrs


def _view(safe: Safe, band: str) -> dict[str, float]:
    """Return the mean angles at which a band saw the tile, in degrees."""
    for number, name in safe.product.band_ids.items():
        if name == band and number in safe.tile.view:
            zenith, azimuth = safe.tile.view[number]
            return {"mean_view_zenith": zenith, "mean_view_azimuth": azimuth}
    return {}


def _attrs(safe: Safe, missing: Sequence[str]) -> dict[str, Any]:
    """Return what is true of the whole tree."""
    product, tile = safe.product, safe.tile
    sun = tile.sun or (None, None)
    said = {
        "level": product.level,
        "platform": product.platform,
        "mgrs_tile": tile.tile,
        "source": "SAFE",
        "product": safe.name,
        "processing_baseline": product.baseline,
        "datatake": product.datatake,
        "relative_orbit": product.orbit,
        "orbit_direction": product.orbit_direction,
        "product_time": _text(product.start),
        "sensing_time": _text(tile.sensed),
        "generation_time": _text(product.generated),
        "mean_sun_zenith": sun[0],
        "mean_sun_azimuth": sun[1],
        "nodata_count": product.nodata,
        "saturated_count": product.saturated,
        "missing_bands": ", ".join(missing),
    }
    return {k: v for k, v in said.items() if v is not None and v != ""}


def _text(moment: np.datetime64 | None) -> str:
    return "" if moment is None else f"{moment.astype('datetime64[us]')}Z"
