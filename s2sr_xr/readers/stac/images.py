"""From an item to its images: which asset is a band, where it lies, what it means."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2sr_xr.core.radiometry import declared
from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.readers.fetch.asset import Asset, driver_of
from s2sr_xr.readers.fetch.hrefs import signer_of
from s2sr_xr.readers.fetch.window import read_header
from s2sr_xr.readers.item import links_of
from s2sr_xr.readers.place import (
    CLASSES,
    asset_grid,
    check_ground,
    declared_crs,
    has_native_pixels,
    native_size,
)
from s2sr_xr.readers.tree import Image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.reflectance import Radiometry
    from s2sr_xr.readers.item import Item

__all__ = ["ItemImages", "find_images", "has_classes"]

_PIXEL = re.compile(r"_[126]0m")
"""What a key says of its pixels, as in ``B04_20m``."""


@dataclass(frozen=True, slots=True)
class ItemImages:
    """One item and its native images."""

    item: Item

    images: Mapping[str, Image]
    """By band, in instrument order; the scene classification, if wanted, last."""

    @property
    def grid(self) -> Grid:
        """The grid of the first image: that of all, but for the size of pixels."""
        return next(iter(self.images.values())).grid


def find_images(
    item: Item, bands: Sequence[str], meaning: Radiometry | None
) -> ItemImages:
    """Return an item with the native images of bands, all over the same ground.

    `meaning` is what the user says of the counts; without it the item decides, once
    for each image.
    """
    images = {band: _image(item, band, meaning) for band in bands}
    check_ground(item.id, {band: image.grid for band, image in images.items()})
    return ItemImages(item, images)


def _image(item: Item, band: str, meaning: Radiometry | None) -> Image:
    """Return the native image of a band, or of the scene classification."""
    key, asset = _native(item, band)
    if asset.crs is None:
        raise GridError(
            f"{band} of {item.id} has no CRS, in the item or in the file. Add "
            "proj:code to the item.",
            item=item.id,
            band=band,
        )
    if band == CLASSES:
        return Image(asset, asset_grid(asset))
    radiometry = meaning or declared(item.facts, band, key)
    return Image(asset, asset_grid(asset), radiometry)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An asset that may be the band, before anything is opened."""

    item: Item
    band: str
    key: str
    driver: str
    shape: tuple[int, int] | None
    transform: tuple[float, ...] | None

    @property
    def asset(self) -> Asset:
        """The image, as far as the item describes it."""
        href = self.item.address(self.band, self.key)
        fields = self.item.facts["assets"][self.key]
        return Asset(
            item_id=self.item.id,
            band=self.band,
            href=href,
            driver=self.driver,
            shape=self.shape,
            transform=self.transform,
            crs=declared_crs(fields) or declared_crs(self.item.properties),
            sign=signer_of(href, links_of(self.item.facts)),
        )


def _candidates(item: Item, band: str) -> list[_Candidate]:
    """Return the assets of a band that are read here, GeoTIFF before JPEG 2000."""
    found: list[_Candidate] = []
    kinds: set[str] = set()
    keys = item.classes if band == CLASSES else item.bands[band]
    for key in keys:
        fields = item.facts["assets"][key]
        kinds.add(str(fields.get("type")))
        driver = driver_of(fields.get("type"), str(fields.get("href", "")))
        if driver is not None:
            place = _declared_place(fields, band)
            if place == (None, None) and len(keys) == 1:
                # What the item says of all its assets holds for one that is alone.
                place = _declared_place(item.properties, band)
            found.append(_Candidate(item, band, key, driver, *place))
    if not found:
        zarr = " Open Zarr products with open_eopf." if "zarr" in str(kinds) else ""
        raise ReadError(
            f"{band} of {item.id} comes as {', '.join(sorted(kinds))}; GeoTIFF and "
            f"JPEG 2000 are read here.{zarr}",
            item=item.id,
            band=band,
        )
    return sorted(found, key=lambda candidate: candidate.driver)


def _declared_place(
    fields: Mapping[str, Any], band: str
) -> tuple[tuple[int, int] | None, tuple[float, ...] | None]:
    """Return the shape and transform that projection fields give."""
    shape, transform, bbox = (
        _numbers(fields.get(f"proj:{name}")) for name in ("shape", "transform", "bbox")
    )
    complete = len(shape) >= 2 and min(shape[:2]) >= 1
    size = (int(shape[0]), int(shape[1])) if complete else None
    if len(transform) >= 6:
        return size, transform[:6]
    if size and len(bbox) == 4:
        west, south, east, north = bbox
        made = ((east - west) / size[1], 0.0, west, 0.0, (south - north) / size[0])
        # Some catalogues give degrees here: such a box says nothing.
        if has_native_pixels(band, made):
            return size, (*made, north)
    return size, None


def _numbers(value: object) -> tuple[float, ...]:
    """Return a list of numbers; anything else says nothing, and is empty."""
    try:
        found = tuple(map(float, value)) if isinstance(value, list | tuple) else ()
    except (TypeError, ValueError):
        return ()
    return found if all(map(math.isfinite, found)) else ()


def _native(item: Item, band: str) -> tuple[str, Asset]:
    """Return the asset with the band's native pixels, its place known, and its key."""
    candidates = _candidates(item, band)
    placed = [c for c in candidates if c.transform]
    native = [c for c in placed if c.transform and has_native_pixels(band, c.transform)]
    if native:
        chosen = _only(native)
        asset = chosen.asset
        complete = asset.shape is not None and asset.crs is not None
        return chosen.key, asset if complete else read_header(asset)
    pixels = [c.transform[0] for c in placed if c.transform]
    for candidate in candidates:
        if candidate not in placed:
            asset = read_header(candidate.asset)
            assert asset.transform is not None
            if has_native_pixels(band, asset.transform):
                return candidate.key, asset
            pixels.append(asset.transform[0])
    raise GridError(
        f"{band} of {item.id} comes with pixels of "
        f"{', '.join(f'{p:g} m' for p in pixels)}; its native pixel is "
        f"{native_size(band)} m. Use items that hold the native band.",
        item=item.id,
        band=band,
    )


def _only(native: Sequence[_Candidate]) -> _Candidate:
    """Return the asset of the first format; raise if two of it claim to be the band."""
    first = native[0]
    same = [c for c in native if c.driver == first.driver]
    if len(same) > 1:
        # CDSE has items whose B07_60m gives the transform of B07_20m.
        res = f"_{native_size(first.band)}m"
        same = [c for c in same if _PIXEL.search(c.key) is None or res in c.key]
    if len(same) != 1:
        raise GridError(
            f"The assets {' and '.join(c.key for c in same or native)} of "
            f"{first.item.id} both are {first.band}; remove one from the item.",
            item=first.item.id,
            band=first.band,
        )
    return same[0]


def has_classes(item: Item) -> bool:
    """Return whether an item has a scene classification that is read here."""
    fields = [item.facts["assets"][key] for key in item.classes]
    return any(driver_of(f.get("type"), str(f.get("href"))) for f in fields)
