"""The last stage of every reader: images become layers, layers a lazy tree.

A reader finds its items and, of each, the native images with their meaning (`Image`).
`reflectance_layer` puts the images of one band in a row along time; `make_tree` puts
layers into groups by the size of their pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from s2sr_xr.core.bands import BANDS, group
from s2sr_xr.errors import ChunkError
from s2sr_xr.readers.fetch.source import BandSource, Crop, as_variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from s2sr_xr.core.area import Area
    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.reflectance import Radiometry
    from s2sr_xr.readers.fetch.asset import Asset
    from s2sr_xr.readers.fetch.source_protocol import Source
    from s2sr_xr.readers.item import Item

    Show = Callable[
        [Sequence[Item], Sequence["Layer"], Grid, int | None], dict[str, xr.Variable]
    ]
    # Layers of one pixel size as variables, on the grid given or its part, in chunks.

__all__ = [
    "Image",
    "Layer",
    "band_attrs",
    "check_chunks",
    "make_tree",
    "reflectance_layer",
    "show_layers",
]


NESTING = 6
"""Ten-metre pixels along the side of the coarsest pixel, of 60 m."""


def check_chunks(chunks: int | None) -> None:
    """Raise unless a chunk size is None or whole 60 m pixels."""
    if chunks is None:
        return
    whole = isinstance(chunks, int) and not isinstance(chunks, bool)
    if whole and chunks >= NESTING and chunks % NESTING == 0:
        return
    near = "2196 is the default"
    if whole:
        below = max(chunks // NESTING * NESTING, NESTING)
        near = f"the nearest are {below} and {below + NESTING}"
    raise ChunkError(
        f"chunks={chunks!r}: the side of a chunk is a multiple of {NESTING} ten-metre "
        f"pixels, so that it holds whole 60 m pixels ({near}), or None."
    )


@dataclass(frozen=True, slots=True)
class Image:
    """One native image of one item: where it is, where it lies, what it means."""

    asset: Asset
    grid: Grid
    radiometry: Radiometry | None = None
    """What its counts mean; None for the codes of a scene classification."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One variable of a tree, before it is made."""

    name: str
    source: Source
    """Where its pixels come from, at every time step."""

    grid: Grid
    attrs: Mapping[str, Any]


def reflectance_layer(images: Sequence[Image]) -> Layer:
    """Return images of one band, one a time step, as a layer of reflectance."""
    meanings = tuple(i.radiometry for i in images if i.radiometry is not None)
    source = BandSource(assets=tuple(i.asset for i in images), radiometry=meanings)
    by_meaning: dict[str, list[str]] = {}
    for asset, meaning in zip(source.assets, meanings, strict=True):
        by_meaning.setdefault(str(meaning), []).append(asset.item_id)
    decoded = next(iter(by_meaning))
    if len(by_meaning) > 1:
        decoded = "; ".join(f"{how}: {', '.join(of)}" for how, of in by_meaning.items())
    attrs = band_attrs(source.band, decoded)
    return Layer(source.band, source, images[0].grid, attrs)


def band_attrs(band: str, decoded: str) -> dict[str, Any]:
    """Return the attributes of a band of reflectance; `decoded` says how it was."""
    known = BANDS[band]
    return {
        "long_name": f"reflectance in {known.name}, {known.wavelength:g} nm",
        "units": "1",
        "wavelength": known.wavelength,
        "radiometry": decoded,
    }


def show_layers(
    items: Sequence[Item],  # noqa: ARG001 - as `Show`
    layers: Sequence[Layer],
    part: Grid,
    chunk: int | None,
) -> dict[str, xr.Variable]:
    """Return layers of one pixel size as they are read here, on the grid `part`."""
    return {
        layer.name: as_variable(_crop(layer, part), chunk, layer.attrs)
        for layer in layers
    }


def make_tree(
    items: Sequence[Item],
    layers: Sequence[Layer],
    attrs: Mapping[str, Any],
    *,
    chunks: int | None,
    area: Area | None = None,
    show: Show = show_layers,
) -> xr.DataTree:
    """Return layers as a tree, one group for each size of pixels; nothing is read.

    Parameters
    ----------
    items
        One for each time step.
    layers
        On grids over the same ground.
    attrs
        Attributes of the tree.
    chunks
        Side of a Dask chunk in 10 m pixels; None for variables without Dask.
    area
        What is shown of the layers; None for all.
    show
        What makes variables of layers.
    """
    groups: dict[str, xr.Dataset] = {}
    for res in sorted({layer.grid.res for layer in layers}):
        here = [layer for layer in layers if layer.grid.res == res]
        grid = here[0].grid
        part = grid if area is None else grid.part(*area.slices(grid))
        data = show(
            items, here, part, None if chunks is None else chunks * 10 // int(res)
        )
        for layer in here:
            data[layer.name].attrs = dict(layer.attrs)
            data[layer.name].encoding["grid_mapping"] = "spatial_ref"
        groups[group(int(res))] = xr.Dataset(data, _coords(items, part))
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = dict(attrs)
    return tree


def _crop(layer: Layer, part: Grid) -> Source:
    """Return what a layer has on the grid `part`."""
    whole = layer.grid
    if part == whole:
        return layer.source
    top = round((whole.y_edge - part.y_edge) / whole.res)
    left = round((part.x_edge - whole.x_edge) / whole.res)
    rows, cols = part.shape
    return Crop(source=layer.source, rows=(top, top + rows), cols=(left, left + cols))


def _coords(items: Sequence[Item], grid: Grid) -> dict[str, Any]:
    """Return the coordinates of a group: time, item, baseline, pixel centres."""
    return {
        "time": ("time", np.array([item.time for item in items], "datetime64[ns]")),
        # Objects: fixed-width text has no stable form in Zarr.
        "item_id": ("time", np.array([item.id for item in items], object)),
        "baseline": ("time", np.array([item.baseline for item in items], object)),
        **grid.coords(),
    }
