"""STAC items of Sentinel-2 to lazy trees: native pixels, decoded, on one grid each.

Everything but the pixels comes from the items: assets are matched to bands, grids to
each other, and counts to their meaning before a file is opened. A header is read only
where an item does not say where its pixels lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from s2sr_xr.core.area import Area
from s2sr_xr.core.bands import group
from s2sr_xr.core.radiometry import override, warn_of_doubt
from s2sr_xr.errors import ChunkError, GridError, MissingBandError, ReadError
from s2sr_xr.readers.scene_classification import class_variables
from s2sr_xr.readers.stac.assets import has_classes, image_of, layer_of
from s2sr_xr.readers.stac.items import all_items
from s2sr_xr.readers.tree import (
    CLASSES,
    attrs_of,
    check_chunks,
    check_nesting,
    chunk_of,
    coords_of,
    group_of,
    place_of,
    res_of,
    wanted_bands,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from s2sr_xr.core.grid import Grid, Ground
    from s2sr_xr.core.reflectance import Radiometry
    from s2sr_xr.readers.stac.items import Item
    from s2sr_xr.readers.tree import Image, Layer, Reader

__all__ = ["open_stac", "open_stac_tiles"]

Backend = Literal["native", "stackstac"]


def open_stac(
    items: Any,  # noqa: ANN401 - see Parameters
    *,
    bands: Sequence[str] | None = None,
    bbox: Ground | None = None,
    chunks: int | None = 2196,
    reader: Backend = "native",
    radiometry: str | Mapping[str, float] = "auto",
) -> xr.DataTree:
    """Return STAC items of one Sentinel-2 grid as a lazy tree of reflectance.

    Parameters
    ----------
    items
        A pystac Item or ItemCollection, a pystac-client search, the dict of an item's
        or collection's JSON, the path or URL of such a file, or an iterable of those.
        All items lie on one MGRS grid.
    bands
        ESA's identifiers or STAC's common names, and ``"SCL"``. Default: all bands of
        the items, but not B10, which no model takes; and SCL where all items have it.
    bbox
        West, south, east and north bound in degrees of longitude and latitude. Snapped
        outward to whole 60 m cells.
    chunks
        Side of a Dask chunk in 10 m pixels, a multiple of 6; 20 m and 60 m bands get
        the same ground. None for lazily indexed variables without Dask.
    reader
        What reads the bands. ``"native"`` reads strictly: a pixel that cannot be read
        is an error, whatever happens. ``"stackstac"`` (the extra
        ``s2sr-xr[stackstac]``) gives the same tree, but not that promise: a damaged
        file may be read as zeros, files are not compared with their item, a broken
        transfer is not tried again, tokens are those of the items, and blocks are cut
        from whole chunks.
    radiometry
        ``"auto"`` decides for each item and band from its metadata. A mapping such as
        ``{"offset": -1000}`` (counts added before the scale, which is 1e-4 unless
        ``"scale"`` is given) says it for all.

    Returns
    -------
    xr.DataTree
        Groups ``r10m``, ``r20m``, ``r60m``, those that have bands, with one variable a
        band: float32 reflectance, 1.0 = full, negative values kept, NaN for no data,
        dims ``(time, y, x)``. Time ascends (UTC); x and y are float64 pixel centres in
        metres, y from north to south; ``spatial_ref`` holds the CRS; ``item_id`` and
        ``baseline`` depend on time. Attributes say how counts were decoded. With SCL,
        ``r20m`` has ``SCL`` (uint8 codes) and ``flags`` (uint8, 4 where SCL says
        saturated or defective), which `upsample` carries into ``quality`` at the price
        of one more 20 m image.

    Raises
    ------
    MissingBandError
        An item has no asset for a band.
    GridError
        No item, one item twice, several grids or levels, pixels that do not nest, or a
        bbox that does not meet them.
    RadiometryError
        An item does not say what its counts mean.
    ChunkError
        Chunks do not hold whole 60 m pixels.
    ReadError
        An asset is nothing that is read here, or not to be followed, or a header could
        not be read. Pixels are read, and may fail, when they are computed.
    ImportError
        stackstac is not there.

    Warns
    -----
    S2SRWarning
        The items are of a collection that contradicts its own pixels.
    """
    read = _backend(reader, chunks)
    stack = _stack(items, bands, override(radiometry))
    places = stack.by_place()
    if len(places) > 1:
        raise _several(places)
    warn_of_doubt(stack.decisions(), stacklevel=3)
    return stack.tree(chunks, Area(bbox) if bbox is not None else None, read)


def open_stac_tiles(
    items: Any,  # noqa: ANN401 - as open_stac
    *,
    bands: Sequence[str] | None = None,
    bbox: Ground | None = None,
    chunks: int | None = 2196,
    reader: Backend = "native",
    radiometry: str | Mapping[str, float] = "auto",
) -> dict[str, xr.DataTree]:
    """Return STAC items of several Sentinel-2 grids, one lazy tree a grid.

    Tiles overlap, and are not merged: make each finer, then make the mosaic.

    Parameters
    ----------
    items, bands, chunks, reader, radiometry
        As in `open_stac`, but for items on any grids.
    bbox
        As in `open_stac`; tiles that do not meet it are left out.

    Returns
    -------
    dict of str to xr.DataTree
        Trees as `open_stac` returns them, by MGRS tile, such as ``"31TFJ"``, in order;
        by CRS and extent where items do not name one tile for one grid.

    Raises
    ------
    MissingBandError, RadiometryError, ChunkError, ReadError, ImportError
        As in `open_stac`.
    GridError
        No item, one item twice, several levels on one grid, pixels that do not nest, or
        a bbox that no tile meets.

    Warns
    -----
    S2SRWarning
        The items are of a collection that contradicts its own pixels.
    """
    read = _backend(reader, chunks)
    stack = _stack(items, bands, override(radiometry))
    places = stack.by_place()
    area = Area(bbox) if bbox is not None else None
    met = {p: s for p, s in places.items() if area is None or area.window(s.grid)}
    if not met:
        raise GridError(
            f"No tile meets the bbox {bbox} (west, south, east, north, in degrees); "
            f"there are {', '.join(places)}."
        )
    warn_of_doubt((d for s in met.values() for d in s.decisions()), stacklevel=3)
    names = _names(met)
    trees = {names[place]: s.tree(chunks, area, read) for place, s in met.items()}
    return dict(sorted(trees.items()))


def _backend(reader: str, chunks: int | None) -> Reader | None:
    """Return what shows the bands, None for this library itself."""
    check_chunks(chunks)
    if reader == "native":
        return None
    if reader != "stackstac":
        raise ReadError(f"reader={reader!r}: give 'native' or 'stackstac'.")
    if chunks is None:
        raise ChunkError(
            "reader='stackstac' gives Dask arrays: give chunks, or reader='native'."
        )
    from s2sr_xr.readers.stac.stackstac import stacked

    return stacked


# --- items and their images -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stack:
    """Items, and their images by band: one an item."""

    items: Sequence[Item]
    images: Mapping[str, tuple[Image, ...]]
    classes: tuple[Layer, ...]
    """Scene classifications; empty where not wanted."""

    def layers(self) -> Iterator[tuple[Layer, ...]]:
        """Yield all images of each item."""
        rows = [*self.images.values(), *([self.classes] if self.classes else [])]
        return zip(*rows, strict=True)

    @property
    def grid(self) -> Grid:
        """The grid of the first image: that of all, but for the size of pixels."""
        return next(self.layers())[0].grid

    def decisions(self) -> Iterator[Radiometry]:
        """Yield what the counts of each image mean."""
        return (i.radiometry for its in self.images.values() for i in its)

    def by_place(self) -> dict[str, _Stack]:
        """Return the items of each grid, by its place."""
        places: dict[str, list[int]] = {}
        for n, layers in enumerate(self.layers()):
            places.setdefault(place_of(layers[0].grid), []).append(n)
        return {place: self._only(its) for place, its in places.items()}

    def _only(self, wanted: Sequence[int]) -> _Stack:
        return _Stack(
            [self.items[n] for n in wanted],
            {b: tuple(its[n] for n in wanted) for b, its in self.images.items()},
            tuple(self.classes[n] for n in wanted if self.classes),
        )

    def tree(
        self, chunks: int | None, area: Area | None, read: Reader | None
    ) -> xr.DataTree:
        """Return the tree of items on one grid, or the part of it over `area`."""
        attrs = attrs_of(self.items)
        groups: dict[str, xr.Dataset] = {}
        for res in (10, 20, 60):
            here = {b: its for b, its in self.images.items() if res_of(b) == res}
            if here:
                groups[group(res)] = group_of(
                    self.items, here, chunks, area=area, read=read
                )
        if self.classes:
            name = group(res_of(CLASSES))
            bands = groups.get(name)
            groups[name] = self._with_classes(bands, chunks, area)
        tree = xr.DataTree.from_dict(groups)
        tree.attrs = attrs
        return tree

    def _with_classes(
        self, bands: xr.Dataset | None, chunks: int | None, area: Area | None
    ) -> xr.Dataset:
        grid = part = self.classes[0].grid
        if area is not None:
            part = grid.part(*area.slices(grid))
        made = class_variables(self.classes, part, chunk_of(chunks, grid))
        coords = coords_of(self.items, part)
        return (xr.Dataset(coords=coords) if bands is None else bands).assign(made)


def _stack(
    items: object, bands: Sequence[str] | None, meaning: Radiometry | None
) -> _Stack:
    """Return items with their images; all of an item on the same ground."""
    found = all_items(items)
    names, classes = _asked(found, bands)
    stack = _Stack(
        found,
        {b: tuple(image_of(item, b, meaning) for item in found) for b in names},
        tuple(layer_of(item, CLASSES)[1] for item in found if classes),
    )
    for item, layers in zip(found, stack.layers(), strict=True):
        check_nesting(item, layers)
    return stack


def _asked(
    items: Sequence[Item], bands: Sequence[str] | None
) -> tuple[list[str], bool]:
    """Return the bands to open, and whether to open the scene classifications."""
    if bands is None:
        return wanted_bands(items, None), all(has_classes(item) for item in items)
    asked = [bands] if isinstance(bands, str) else list(bands)
    others = [b for b in asked if b.strip().upper() != CLASSES]
    if len(others) == len(asked):
        return wanted_bands(items, asked), False
    if lacking := [item for item in items if not item.classes]:
        raise MissingBandError(
            f"Item {lacking[0].id} has no asset for {CLASSES}; {len(lacking)} of "
            f"{len(items)} items. Only L2A products have one; leave it out.",
            item=lacking[0].id,
            band=CLASSES,
        )
    return wanted_bands(items, others) if others else [], True


def _several(places: Mapping[str, _Stack]) -> GridError:
    """Return the error that lists who lies where."""
    table = "; ".join(
        f"{place} ({len(s.items)}: {', '.join(item.id for item in s.items)})"
        for place, s in places.items()
    )
    return GridError(
        f"The items lie on {len(places)} grids: {table}. Open them with "
        "s2sr_xr.open_stac_tiles, one tree a grid."
    )


def _names(places: Mapping[str, _Stack]) -> dict[str, str]:
    """Return the name of each grid: its MGRS tile, where that names it alone."""
    told = {p: {item.tile for item in s.items} for p, s in places.items()}
    tiles = [tile for its in told.values() for tile in its]
    names = {}
    for place, its in told.items():
        tile = next(iter(its))
        alone = len(its) == 1 and tile is not None and tiles.count(tile) == 1
        names[place] = tile if alone and tile is not None else place
    return names
