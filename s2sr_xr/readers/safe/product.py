"""Where the parts of a SAFE product are: its metadata, a granule, images and masks.

Files are found by the patterns of their names inside the granule's own folders. The
addresses that metadata and manifests hold are never used: some are the ground segment's
(baseline 02.08), and any could point elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.grid import Grid
from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.readers.fetch.asset import Asset, driver_of
from s2sr_xr.readers.item import Item
from s2sr_xr.readers.place import crs_as_wkt
from s2sr_xr.readers.safe.files import join, other_kind
from s2sr_xr.readers.safe.metadata import product_facts, tile_facts, tile_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from s2sr_xr.readers.safe.files import Files
    from s2sr_xr.readers.safe.metadata import Product, Tile

__all__ = ["Found", "Safe", "open_granule"]

_PRODUCT = re.compile(
    r"(?:MTD_MSI|S2[A-Z]_(?:OPER|USER)_MTD_SAF)L(?:1C|2A)\w*\.xml", re.IGNORECASE
)
_GRANULE = re.compile(
    r"(?:MTD_TL|S2[A-Z]_(?:OPER|USER)_MTD_L(?:1C|2A)_\w+)\.xml", re.IGNORECASE
)
_BAND = re.compile(
    r"(?!\.)(?:.*_)?(?P<band>B\d\d|B8A)(?:_(?P<res>\d\d)m)?\.(?P<kind>jp2|tiff?)",
    re.IGNORECASE,
)
_CLASSES = re.compile(r"(?!\.)(?:.*_)?SCL(?:_.*)?_20m\.(?:jp2|tiff?)", re.IGNORECASE)
_MASK = re.compile(
    r"(?!\.)(?:.*_)?MSK_QUALIT_(?P<band>B\d\d|B8A)\.(?:jp2|tiff?)", re.IGNORECASE
)
_PIXELS = re.compile(r"R(10|20|60)m", re.IGNORECASE)

OTHER_KINDS = (
    (
        r"MTD_\w*L1B|_MSIL1B",
        "an L1B product, in sensor geometry",
        "s2sr_xr.open_l1b opens it",
    ),
    (
        r"MTD_\w*L(?:0|1A)|_MSIL(?:0|1A)",
        "a product of level 0 or 1A, not yet an image",
        "get its L1C or L2A",
    ),
    (r"^S[13456][A-Z]?_", "of another Sentinel", "Sentinel-2 is read here"),
    (r"_MTD_ALL\.xml$", "a product of Theia", "s2sr_xr.open_theia opens it"),
    (
        r"^tileInfo\.json$",
        "in the layout of the archive on AWS, without the product's metadata",
        "open its STAC item with s2sr_xr.open_stac",
    ),
    (r"^(?:zarr\.json|\.zgroup)$", "a Zarr store", "s2sr_xr.open_eopf opens it"),
)
"""What is not read here: patterns of names, what it is, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Safe:
    """One granule of a product: its facts and where its files are."""

    files: Files
    """The product's files."""

    granule: str
    """The granule's folder among them."""

    name: str
    """The product's name, without ``.SAFE``."""

    product: Product
    """What the product's metadata say."""

    tile: Tile
    """What the granule's metadata say."""

    time: np.datetime64
    """When the product's sensing began, in UTC."""

    images: tuple[Found, ...]
    """All images of bands, and of the scene classification, at any pixel size."""

    masks: Mapping[str, str]
    """Files of the raster quality masks, by band."""

    @property
    def item(self) -> Item:
        """The product under the names that STAC has for it."""
        properties = {"s2:processing_baseline": self.product.baseline}
        return Item.of_product(self.name, self.time, properties=properties)

    def grid(self, res: int) -> Grid:
        """Return the grid of pixels of `res` metres."""
        if res not in self.tile.corners or res not in self.tile.shapes:
            raise ReadError(f"The metadata of {self.name} have no grid of {res} m.")
        x_edge, y_edge = self.tile.corners[res]
        return Grid(
            crs=crs_as_wkt(self.tile.crs),
            x_edge=x_edge,
            y_edge=y_edge,
            res=float(res),
            shape=self.tile.shapes[res],
        )

    def asset(self, band: str, path: str, grid: Grid) -> Asset:
        """Return an image of the product; its header must say what the product says."""
        driver = driver_of(None, path)
        assert driver is not None
        return Asset(
            item_id=self.name,
            band=band,
            href=self.files.href(path),
            driver=driver,
            shape=grid.shape,
            transform=grid.transform,
            crs=self.tile.crs,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """An image file of a granule."""

    path: str
    """Its name among the product's files."""

    band: str
    """ESA's identifier, or ``"SCL"``."""

    res: int
    """Side of a pixel in metres, as its name says."""


def open_granule(files: Files, start: str) -> Safe:
    """Return the granule that a place in `files` means, its metadata read.

    Raises
    ------
    ReadError
        There is no product, or another one, or its metadata are damaged.
    GridError
        The product has several granules, and the place is none of them.
    """
    folder, metadata, granule = _product_at(files, start)
    product = product_facts(files.read(metadata), files.show(metadata))
    granule = granule or _only_granule(files, folder)
    inside, _ = files.list(granule)
    found = [name for name in inside if _GRANULE.fullmatch(name)]
    if len(found) != 1:
        raise ReadError(
            f"{files.show(granule)} holds {len(found)} metadata files of a granule, "
            "such as MTD_TL.xml, where one was expected. Fetch the product again."
        )
    path = f"{granule}/{found[0]}"
    tile = tile_facts(files.read(path), files.show(path))
    time = product.start if product.start is not None else tile.sensed
    if time is None or tile.level != product.level:
        raise ReadError(
            f"{files.show(path)} is of level {tile.level} and was seen at {time}, its "
            f"product is of level {product.level}. Fetch the product again."
        )
    return Safe(
        files=files,
        granule=granule,
        name=product.name or _folder_name(files.show(folder)),
        product=replace(product, baseline=product.baseline or tile.baseline),
        tile=replace(tile, tile=tile.tile or tile_in(granule)),
        time=time,
        images=tuple(_images(files, f"{granule}/IMG_DATA")),
        masks=dict(_masks(files, f"{granule}/QI_DATA")),
    )


def _product_at(files: Files, start: str) -> tuple[str, str, str]:
    """Return the product's folder, its metadata file, and the granule that is meant."""
    above, _, _ = start.rpartition("/")
    granule = start if above.rpartition("/")[2] == "GRANULE" else ""
    top = above.rpartition("/")[0] if granule else start
    places = [top] if granule else [top, *(join(top, f) for f in files.list(top)[1])]
    # A folder may hold the product's own folder, as archives do.
    found = [
        (place, join(place, name))
        for place in places
        for name in files.list(place)[0]
        if _PRODUCT.fullmatch(name)
    ]
    if len(found) == 1:
        return (*found[0], granule)
    if found:
        raise ReadError(
            f"{files.show(start)} holds several products: "
            f"{', '.join(name for _, name in found)}. Give the folder of one."
        )
    raise _foreign(files, places)


def _foreign(files: Files, places: Sequence[str]) -> ReadError:
    """Return the error that says what lies there instead of a product."""
    shown = files.show(places[0])
    here = [name for kind in files.list(places[0]) for name in kind]
    # An archive, or a folder, with one product in it.
    below = files.list(places[1])[0] if len(places) == 2 else ()
    names = [_folder_name(shown), *here, *below]
    some = ", ".join(here[:6]) or "nothing"
    return other_kind(shown, names, OTHER_KINDS) or ReadError(
        f"{shown} holds no MTD_MSIL1C.xml or MTD_MSIL2A.xml, which say what the counts "
        f"mean; it holds {some}. Give the directory or the zip of a SAFE product."
    )


def _only_granule(files: Files, folder: str) -> str:
    """Return the only granule of a product."""
    root = join(folder, "GRANULE")
    granules = files.list(root)[1] if "GRANULE" in files.list(folder)[1] else ()
    if len(granules) == 1:
        return join(root, granules[0])
    if not granules:
        raise ReadError(
            f"{files.show(folder)} has no granule: its GRANULE folder is missing or "
            "empty. Fetch the product again."
        )
    table = "; ".join(f"{tile_in(g) or 'tile unknown'}: {g}" for g in granules)
    one = files.show(join(root, granules[0])).replace("!/", "/")
    raise GridError(
        f"{files.show(folder)} holds {len(granules)} granules ({table}). Open one at a "
        f"time: open_safe({one!r})."
    )


def _images(files: Files, root: str) -> Iterator[Found]:
    """Yield the images of a granule with the pixel size that their names say."""
    inside, folders = files.list(root) if _has(files, root) else ((), ())
    places = [(root, inside)]
    places += [
        (f"{root}/{f}", files.list(f"{root}/{f}")[0])
        for f in folders
        if _PIXELS.fullmatch(f)
    ]
    for place, names in places:
        said = _PIXELS.fullmatch(place.rpartition("/")[2])
        for name in names:
            if _CLASSES.fullmatch(name):
                yield Found(f"{place}/{name}", "SCL", 20)
            elif match := _BAND.fullmatch(name):
                band = match["band"].upper()
                if band in BANDS:
                    pixel = match["res"] or (said and said[1]) or BANDS[band].native
                    yield Found(f"{place}/{name}", band, int(pixel))


def _masks(files: Files, root: str) -> Iterator[tuple[str, str]]:
    """Yield bands and the files of their quality masks."""
    for name in files.list(root)[0] if _has(files, root) else ():
        if match := _MASK.fullmatch(name):
            yield match["band"].upper(), f"{root}/{name}"


def _has(files: Files, folder: str) -> bool:
    above, _, name = folder.rpartition("/")
    return name in files.list(above)[1]


def _folder_name(shown: str) -> str:
    """Return the last name of a path without what follows the product's name."""
    last = shown.rstrip("/!").rpartition("/")[2]
    return last.removesuffix(".zip").removesuffix(".SAFE")
