"""What every reader knows of a scene, under the names that STAC has for it: an item."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.core.radiometry import baseline_of
from s2sr_xr.errors import GridError, MissingBandError
from s2sr_xr.readers.fetch.hrefs import absolute, alternative, path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

__all__ = [
    "NO_MODEL",
    "Item",
    "links_of",
    "named_bands",
    "select_bands",
    "self_link",
    "tree_attrs",
]

NO_MODEL = "B10"
"""The cirrus band: no model takes it, so it is opened only by name."""

_LEVEL = re.compile(r"(?:MSIL?|[-_]L)(1C|2A)")
_SATELLITE = re.compile(r"2([A-D])\b")
_TILE = re.compile(r"(?:^|MGRS-|_T?)(\d{2}[C-X][A-Z]{2})(?:_|$)")


@dataclass(frozen=True, slots=True)
class Item:
    """The JSON of one STAC item, or what a product says under the same names."""

    facts: Mapping[str, Any]
    """The item as plain JSON; never changed."""

    found_at: str
    """Local path or URL that relative hrefs count from; empty where unknown."""

    time: np.datetime64
    """When the scene was seen, in UTC."""

    bands: Mapping[str, tuple[str, ...]]
    """Keys of the assets of each band, by ESA's identifier."""

    classes: tuple[str, ...] = ()
    """Keys of the assets that hold the scene classification."""

    @classmethod
    def of_product(
        cls,
        name: str,
        time: np.datetime64,
        *,
        bands: Iterable[str] = (),
        properties: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return a product that comes without a catalogue as an item."""
        keys = {band: (band,) for band in bands}
        assets: dict[str, Any] = {band: {} for band in keys}
        facts = {"id": name, "properties": properties or {}, "assets": assets}
        return cls(facts, "", time, keys)

    @property
    def id(self) -> str:
        """The item's identifier."""
        return str(self.facts["id"])

    @property
    def properties(self) -> Mapping[str, Any]:
        """What the item says of itself."""
        return self.facts.get("properties") or {}

    @property
    def baseline(self) -> str:
        """The processing baseline, such as ``"05.11"``; empty where nothing says."""
        return baseline_of(self.facts)[0]

    @property
    def level(self) -> str | None:
        """``"L1C"`` or ``"L2A"``, from the product type, the collection or the id."""
        known = self.properties
        said = (
            known.get("s2:product_type"),
            known.get("product:type"),
            self.facts.get("collection"),
            self.id,
        )
        found = (_LEVEL.search(str(text).upper()) for text in said)
        return next((f"L{match[1]}" for match in found if match), None)

    @property
    def platform(self) -> str | None:
        """The satellite under one name, such as ``"Sentinel-2A"``."""
        text = str(self.properties.get("platform") or self.id[:3])
        unit = _SATELLITE.search(text.upper())
        return f"Sentinel-2{unit[1]}" if unit else None

    @property
    def tile(self) -> str | None:
        """The MGRS tile, such as ``"31TFJ"``, where the item names it."""
        known = self.properties
        text = str(known.get("grid:code") or known.get("s2:mgrs_tile") or self.id)
        found = _TILE.search(text)
        return found[1] if found else None

    def absolute(self, band: str, href: str) -> str:
        """Return an href as it is opened; see `hrefs.absolute`."""
        place, own = path_of(self.found_at), self_link(self.facts)
        return absolute(href, place=place, own=own, item=self.id, band=band)

    def address(self, band: str, key: str) -> str:
        """Return the address of an asset as it is opened."""
        return self.absolute(band, alternative(self.facts["assets"][key]))


def links_of(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the links in an item's JSON; what is not a link is left out."""
    links = facts.get("links")
    found = links if isinstance(links, list | tuple) else ()
    return [k for k in found if isinstance(k, Mapping)]


def self_link(facts: Mapping[str, Any]) -> str:
    """Return the address that an item's JSON gives for itself, else nothing."""
    own = (k.get("href") for k in links_of(facts) if k.get("rel") == "self")
    return next((str(href) for href in own if href), "")


def named_bands(bands: str | Iterable[str]) -> dict[str, str]:
    """Return ESA's identifier of each name that the user gave.

    Raises
    ------
    MissingBandError
        A name is not that of a band.
    """
    asked = [bands] if isinstance(bands, str) else list(bands)
    known = {name: canonical(name) for name in asked}
    if unknown := [name for name, band in known.items() if band is None]:
        raise MissingBandError(
            f"{', '.join(unknown)}: no such band. Sentinel-2 has {', '.join(BANDS)}."
        )
    return {name: band for name, band in known.items() if band is not None}


def select_bands(items: Sequence[Item], bands: Sequence[str] | None) -> list[str]:
    """Return the bands to open, in instrument order; every item has them all."""
    if bands is None:
        names = {b for item in items for b in item.bands} - {NO_MODEL}
    else:
        names = set(named_bands(bands).values())
    if not names:
        raise MissingBandError(
            f"Item {items[0].id} has no asset that is a band; it has the assets "
            f"{', '.join(items[0].facts['assets'])}."
        )
    for band in (b for b in BANDS if b in names):
        if lacking := [item for item in items if band not in item.bands]:
            raise _missing(band, lacking, len(items))
    return [b for b in BANDS if b in names]


def _missing(band: str, lacking: Sequence[Item], total: int) -> MissingBandError:
    first = lacking[0]
    others = ", ".join(item.id for item in lacking[1:4])
    return MissingBandError(
        f"Item {first.id} has no asset for band {band} (it has "
        f"{', '.join(b for b in BANDS if b in first.bands)}); {len(lacking)} of "
        f"{total} items{f', also {others}' if others else ''}. Leave them out, or name "
        "the bands that all have: bands=[...].",
        item=first.id,
        band=band,
    )


def tree_attrs(items: Sequence[Item], source: str) -> dict[str, str]:
    """Return the attributes of a tree of items: those that hold for all of it.

    Raises
    ------
    GridError
        The items are of several levels.
    """
    levels = {level: item.id for item in items if (level := item.level)}
    if len(levels) > 1:
        table = ", ".join(f"{level} ({of})" for level, of in sorted(levels.items()))
        raise GridError(
            f"The items are of several levels: {table}. Open one at a time."
        )
    platforms = sorted({p for item in items if (p := item.platform)})
    tiles = sorted({t for item in items if (t := item.tile)})
    attrs = {
        "level": next(iter(levels), ""),
        "platform": ", ".join(platforms),
        "mgrs_tile": ", ".join(tiles),
        "source": source,
    }
    return {k: v for k, v in attrs.items() if v}
