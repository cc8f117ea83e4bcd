"""A Theia or MAJA L2A product of Sentinel-2 to one lazy tree: native pixels, decoded.

Read are flat reflectances (FRE: corrected for the atmosphere and for slopes), int16,
without an offset. Level 2A has no 60 m bands: they served to know the atmosphere.

References
----------
CNES PSC-NT-411-0362, Sentinel-2A L2A products description; CESBIO, MAJA output format.
SNAP, opttbx-s2tbx-muscate-reader: bits of the masks (edge: bit 0; saturation and
defective pixels: one bit a band).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.nodata import DEFECT, SATURATED
from s2sr_xr.core.token_parts import token_parts
from s2sr_xr.errors import S2SRWarning
from s2sr_xr.readers.fetch.source import BandSource
from s2sr_xr.readers.fetch.window import read_window
from s2sr_xr.readers.files import located
from s2sr_xr.readers.item import select_bands, tree_attrs
from s2sr_xr.readers.place import check_ground
from s2sr_xr.readers.safe.masks import QualityMasks
from s2sr_xr.readers.theia.product import GROUPS, open_product
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

    import xarray as xr

    from s2sr_xr.readers.fetch.asset import Asset
    from s2sr_xr.readers.theia.product import Product

__all__ = ["open_theia"]

EDGE = 1
"""Bit of a pixel outside of the image, in the edge mask."""

MASKS = {"SAT": SATURATED, "DFP": DEFECT}
"""Masks with one bit a band, and the flag that any of their bits means."""


def open_theia(
    path: str | os.PathLike[str],
    *,
    bands: Sequence[str] | None = None,
    chunks: int | None = 2196,
) -> xr.DataTree:
    """Return a Theia or MAJA L2A product of Sentinel-2 as a lazy tree of reflectance.

    Parameters
    ----------
    path
        Directory, or zip (read in place, which is slow: unpack what is read often), of
        one product, ``SENTINEL2A_YYYYMMDD-HHMMSS-mmm_L2A_Txxxxx_C_V?-?``, or its
        ``_MTD_ALL.xml``.
    bands
        ESA's identifiers or STAC's common names. Default: the ten bands of 10 and 20 m,
        those that the product holds.
    chunks
        Side of a Dask chunk in 10 m pixels, a multiple of 6; 20 m bands get the same
        ground. None for lazily indexed variables without Dask.

    Returns
    -------
    xr.DataTree
        As `open_stac` returns it, with one time step: groups ``r10m`` and ``r20m``,
        those that have bands, with one variable a band: flat surface reflectance,
        float32, 1.0 = full, negative values kept, NaN for no data and beyond the edge
        of the image, dims ``(time, y, x)``. A group has ``flags`` (uint8; 2 saturated,
        4 product defect, in any band of these pixels) where the product has a mask of
        saturation.

    Raises
    ------
    ReadError
        There is no such product, it is of another kind or has no flat reflectance, or
        its metadata are damaged or not safe to read. Pixels are read, and may fail,
        when they are computed.
    MissingBandError
        A band that was asked for is not there. B01, B09 and B10 never are.
    GridError
        An image has no CRS or other pixels than its band, or the images do not nest.
    ChunkError
        Chunks do not hold whole 60 m pixels.

    Warns
    -----
    S2SRWarning
        A mask is empty, and left out.
    """
    check_chunks(chunks)
    product = open_product(path)
    item = product.item
    images = {band: _image(product, band) for band in select_bands([item], bands)}
    check_ground(item.id, {band: image.grid for band, image in images.items()})
    empty: list[str] = []
    layers: list[Layer] = []
    for res in GROUPS:
        here = [i for band, i in images.items() if BANDS[band].native == res]
        if here:
            layers += _layers(product, here, empty)
    if empty:
        names = " is, ".join(f"the mask {name}" for name in empty)
        warnings.warn(
            f"{product.name}: {names} is empty; left out.", S2SRWarning, stacklevel=2
        )
    attrs = tree_attrs([item], "Theia") | {"product": product.name}
    return make_tree([item], layers, attrs, chunks=chunks)


def _image(product: Product, band: str) -> Image:
    """Return the image of a band with its place, from its header."""
    asset, grid = located(
        product.asset(band, product.images[band]), "Fetch the product again"
    )
    return Image(asset, grid, product.radiometry)


def _layers(
    product: Product, images: Sequence[Image], empty: list[str]
) -> Iterator[Layer]:
    """Yield the bands of one pixel size without what lies beyond the edge, and flags.

    Masks without content are named in `empty`.
    """
    first = images[0]
    edge = _mask(product, "EDG", first, empty)
    for image in images:
        layer = reflectance_layer([image])
        if edge is not None:
            assert isinstance(layer.source, BandSource)
            source = WithoutEdge(band_source=layer.source, edge=edge)
            layer = replace(layer, source=source)
        yield layer
    masks = {flag: _mask(product, kind, first, empty) for kind, flag in MASKS.items()}
    if masks[SATURATED]:
        there = {flag: mask for flag, mask in masks.items() if mask}
        flags = BitMasks(masks=tuple(there.values()), flags=tuple(there))
        yield Layer("flags", flags, first.grid, _FLAGS)


_FLAGS = {
    "long_name": "what the product's masks say, in any band of these pixels",
    "flag_masks": [SATURATED, DEFECT],
    "flag_meanings": "saturated product_defect",
}


def _mask(product: Product, kind: str, like: Image, empty: list[str]) -> Asset | None:
    """Return a mask on the pixels of an image, None where the product has none."""
    pixels = GROUPS[int(like.grid.res)]
    path = product.masks.get((kind, pixels))
    if path is None:
        return None
    if not product.files.size(path):
        empty.append(f"{kind}_{pixels}")
        return None
    # The shape shows that it is on these pixels.
    return replace(product.asset(f"{kind}_{pixels}", path), shape=like.asset.shape)


# --- what is read ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutEdge:
    """A band without the pixels that an edge mask marks."""

    band_source: BandSource
    """The band, of one time step."""

    edge: Asset
    """The mask, of the band's shape."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return token_parts("edged", 1, self.band_source, self.edge)

    @property
    def band(self) -> str:
        """ESA's identifier of the band."""
        return self.band_source.band

    @property
    def shape(self) -> tuple[int, int, int]:
        """One time step, rows and columns."""
        return self.band_source.shape

    def at(self, time: int) -> Self:
        """Return the source of the one time step."""
        return replace(self, band_source=self.band_source.at(time))

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window, NaN at no data and beyond the edge; see `Source.read`."""
        reflectance = self.band_source.read(time, rows, cols)
        beyond = read_window(self.edge, rows, cols) & EDGE != 0
        np.copyto(reflectance, np.nan, where=beyond)
        return reflectance


@dataclass(frozen=True, slots=True, kw_only=True)
class BitMasks(QualityMasks):
    """Masks with one bit a band, as one image of flags."""

    flags: tuple[int, ...]
    """What each of the masks says with any bit."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return token_parts("bit-masks", 1, self.masks, self.flags)

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window as uint8: each flag where any bit of its mask is set."""
        assert time in (0, -1)
        flags = np.zeros((rows.stop - rows.start, cols.stop - cols.start), np.uint8)
        for flag, mask in zip(self.flags, self.masks, strict=True):
            flags |= np.uint8(flag) * (read_window(mask, rows, cols) != 0)
        return flags
