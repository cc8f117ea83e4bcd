"""What two neighbouring detectors saw of the same ground: pairs of crops.

From coarse to fine: where the corners of granules lie on the ground, or the correlation
of whole green images; then one whole-pixel translation for the pair of detectors, from
green windows along their overlap; then one for each crop, because the two detectors
look under different angles and terrain moves them. All three are deterministic.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from s2sr_xr.errors import GridError
from s2sr_xr.readers.l1b.align import GROUP
from s2sr_xr.readers.l1b.pair import Offset, Pair, View

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import xarray as xr


__all__ = ["overlaps"]


def overlaps(
    tree: xr.DataTree,
    *,
    size: int | tuple[int, int] = 96,
    min_valid: float = 1.0,
    reach: int = 10,
    offsets: Mapping[tuple[int, int], tuple[int, int]] | None = None,
) -> Iterator[tuple[xr.Dataset, xr.Dataset, Offset]]:
    """Yield what neighbouring detectors saw of the same ground, crop by crop.

    Two views of one place with independent noise and sampling: what L1BSR trains on
    (section 4.4; 120 to 200 pixels across). Crops do not overlap each other; lines come
    first. The second view lies within about half a pixel of the first in green, where
    green has texture; elsewhere, and where a better place is further than `reach`, it
    lies where the pair of detectors does as a whole.

    Parameters
    ----------
    tree
        Of `open_l1b` or `align_to_green`, or a part of one. Neighbours are detectors
        whose numbers follow each other.
    size
        Side of a crop in pixels, or lines and samples.
    min_valid
        Share of pixels, 0 to 1, that each view needs in each band. Others are left out.
    reach
        Largest translation of a crop against the pair's, in pixels.
    offsets
        Line and sample to add, by pair, such as ``{(5, 6): (37, -2350)}``. Default:
        from the corners in the metadata, else by correlation of small images.

    Yields
    ------
    tuple
        Two Datasets in memory, float32 counts with NaN for no data, each with the
        coordinates of its own detector, and the `Offset` from the first to the second:
        whole lines and samples.

    Raises
    ------
    GridError
        `size` or `min_valid` is impossible, or nothing says where two detectors lie.
    MissingBandError
        A detector has no green band.
    ReadError
        Pixels could not be read.

    References
    ----------
    Nguyen et al. (2023), L1BSR, section 4.4: coarse translation between detectors,
    refined for each crop, whole pixels only.
    """
    sides = (size, size) if isinstance(size, int) else size
    if min(sides) < 8 or not 0 <= min_valid <= 1:
        raise GridError(
            f"size={size!r}, min_valid={min_valid!r}: a crop has 8 pixels at least "
            "along a side, and a share lies in 0..1."
        )
    views = {
        int(name[1:]): View(name, tree[name].to_dataset())
        for name in sorted(tree.children)
        if GROUP.fullmatch(name)
    }
    return _all_pairs(views, sides, min_valid, reach, dict(offsets or {}))


def _all_pairs(
    views: Mapping[int, View],
    size: tuple[int, int],
    min_valid: float,
    reach: int,
    offsets: Mapping[tuple[int, int], tuple[int, int]],
) -> Iterator[tuple[xr.Dataset, xr.Dataset, Offset]]:
    for a, b in pairwise(views):
        if b - a == 1:
            pair = Pair(views[a], views[b])
            known = offsets.get((a, b))
            offset = pair.regressed(pair.coarse()) if known is None else Offset(*known)
            yield from pair.crops(offset, size, min_valid, reach)
