"""Which bands a reader opens, and whether its chunks hold whole pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.errors import ChunkError, MissingBandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from s2sr_xr.readers.item import Item

__all__ = ["NO_MODEL", "check_chunks", "named_bands", "select_bands"]

NESTING = 6
"""Ten-metre pixels along the side of the coarsest pixel, of 60 m."""

NO_MODEL = "B10"
"""The cirrus band: no model takes it, so it is opened only by name."""


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
