"""STAC items of Sentinel-2 to lazy trees: native pixels, decoded, on one grid each.

In three steps: items (`all_items`), their images (`find_images`: assets matched to
bands, grids to each other, counts to their meaning), the tree (`make_tree`). No file is
opened, but for a header where an item does not say where its pixels lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from s2sr_xr.core.area import Area
from s2sr_xr.core.radiometry import override, warn_of_doubt
from s2sr_xr.errors import ChunkError, GridError, MissingBandError, ReadError
from s2sr_xr.readers.item import select_bands, tree_attrs
from s2sr_xr.readers.place import CLASSES, describe
from s2sr_xr.readers.scene_classification import class_layers
from s2sr_xr.readers.stac.images import find_images, has_classes
from s2sr_xr.readers.stac.items import all_items
from s2sr_xr.readers.tree import check_chunks, make_tree, reflectance_layer, show_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr

    from s2sr_xr.core.grid import Ground
    from s2sr_xr.core.reflectance import Radiometry
    from s2sr_xr.readers.item import Item
    from s2sr_xr.readers.stac.images import ItemImages
    from s2sr_xr.readers.tree import Layer, Show

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
        ``"scale"`` is given) holds for all.

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
        An asset is of a format or at an address that is not read here, or a header
        could not be read. Pixels are read, and may fail, when they are computed.
    ImportError
        stackstac is not installed.

    Warns
    -----
    S2SRWarning
        The items are of a collection that contradicts its own pixels.
    """
    show = _backend(reader, chunks)
    places = _scenes(items, bands, radiometry)
    if len(places) > 1:
        raise _several(places)
    warn_of_doubt(_meanings(places), stacklevel=3)
    (scenes,) = places.values()
    return _tree(scenes, chunks, None if bbox is None else Area(bbox), show)


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
    show = _backend(reader, chunks)
    places = _scenes(items, bands, radiometry)
    area = None if bbox is None else Area(bbox)
    met = {p: s for p, s in places.items() if not area or area.window(s[0].grid)}
    if not met:
        raise GridError(
            f"No tile meets the bbox {bbox} (west, south, east, north, in degrees); "
            f"there are {', '.join(places)}."
        )
    warn_of_doubt(_meanings(met), stacklevel=3)
    names = _tile_names(met)
    trees = {names[p]: _tree(scenes, chunks, area, show) for p, scenes in met.items()}
    return dict(sorted(trees.items()))


def _backend(reader: str, chunks: int | None) -> Show:
    """Return what makes variables of layers."""
    check_chunks(chunks)
    if reader == "native":
        return show_layers
    if reader != "stackstac":
        raise ReadError(f"reader={reader!r}: give 'native' or 'stackstac'.")
    if chunks is None:
        raise ChunkError(
            "reader='stackstac' gives Dask arrays: give chunks, or reader='native'."
        )
    from s2sr_xr.readers.stac.stackstac import show_by_stackstac

    return show_by_stackstac


# --- items, images, tree --------------------------------------------------------------


def _scenes(
    items: object, bands: Sequence[str] | None, radiometry: object
) -> dict[str, list[ItemImages]]:
    """Return items with their images, in order of time, by the place of their grid."""
    meaning = override(radiometry)
    found = all_items(items)
    names = _names(found, bands)
    places: dict[str, list[ItemImages]] = {}
    for scene in [find_images(item, names, meaning) for item in found]:
        places.setdefault(describe(scene.grid), []).append(scene)
    return places


def _names(items: Sequence[Item], bands: Sequence[str] | None) -> list[str]:
    """Return the bands to open, and last the scene classification if it is wanted."""
    if bands is None:
        has_all = all(has_classes(item) for item in items)
        return [*select_bands(items, None), *([CLASSES] if has_all else [])]
    asked = [bands] if isinstance(bands, str) else list(bands)
    others = [b for b in asked if b.strip().upper() != CLASSES]
    if len(others) == len(asked):
        return select_bands(items, asked)
    if lacking := [item for item in items if not item.classes]:
        raise MissingBandError(
            f"Item {lacking[0].id} has no asset for {CLASSES}; {len(lacking)} of "
            f"{len(items)} items. Only L2A products have one; leave it out.",
            item=lacking[0].id,
            band=CLASSES,
        )
    return [*(select_bands(items, others) if others else []), CLASSES]


def _tree(
    scenes: Sequence[ItemImages], chunks: int | None, area: Area | None, show: Show
) -> xr.DataTree:
    """Return the tree of items on one grid, or the part of it over `area`."""
    items = [scene.item for scene in scenes]
    layers: list[Layer] = []
    for band in scenes[0].images:
        images = [scene.images[band] for scene in scenes]
        if band == CLASSES:
            layers += class_layers(images)
        else:
            layers.append(reflectance_layer(images))
    attrs = tree_attrs(items, "STAC")
    return make_tree(items, layers, attrs, chunks=chunks, area=area, show=show)


def _meanings(places: Mapping[str, Sequence[ItemImages]]) -> Iterator[Radiometry]:
    """Yield what the counts of each image mean."""
    for scene in (scene for scenes in places.values() for scene in scenes):
        yield from (i.radiometry for i in scene.images.values() if i.radiometry)


def _several(places: Mapping[str, Sequence[ItemImages]]) -> GridError:
    """Return the error that lists which items lie where."""
    table = "; ".join(
        f"{place} ({len(scenes)}: {', '.join(s.item.id for s in scenes)})"
        for place, scenes in places.items()
    )
    return GridError(
        f"The items lie on {len(places)} grids: {table}. Open them with "
        "s2sr_xr.open_stac_tiles, one tree a grid."
    )


def _tile_names(places: Mapping[str, Sequence[ItemImages]]) -> dict[str, str]:
    """Return the name of each grid: its MGRS tile, where that names it alone."""
    tiles = {place: {s.item.tile for s in its} for place, its in places.items()}
    known = [tile for its in tiles.values() for tile in its]
    names = {}
    for place, its in tiles.items():
        tile = next(iter(its))
        alone = len(its) == 1 and tile is not None and known.count(tile) == 1
        names[place] = tile if alone and tile is not None else place
    return names
