"""No-data: filled before the network, put back after it, and reported."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.tiling import REACH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "DEFECT",
    "FILLED",
    "MEANINGS",
    "SATURATED",
    "UNTRAINED",
    "declared",
    "fill",
    "spread",
]

FILLED, SATURATED, DEFECT, UNTRAINED = 1, 2, 4, 8
"""Bits of `quality`: the margin touched a filled pixel, a saturated one, a defect of
the product; the pixel is outside the level that the model was trained on."""

MEANINGS = "filled saturated defect outside_training_level"
"""The bits by name, for CF's ``flag_meanings``."""

CEILING = 6.4
"""Reflectance of the saturated count 65535: 6.4535 with the offset, 6.5535 without."""

FLOOR = -1.0
"""No reflectance is as low: offsets take 0.1."""


def declared(attrs: Mapping[Any, Any]) -> list[float]:
    """Return the finite values that attributes say missing pixels have.

    As rioxarray keeps them of a file that it opens without ``masked=True``, and
    odc-stac of an asset.

    >>> declared({"_FillValue": -9999, "nodata": float("nan")})
    [-9999.0]
    """
    found = (attrs.get(name) for name in ("_FillValue", "missing_value", "nodata"))
    numbers = {float(v) for v in found if isinstance(v, Real)}
    return sorted(v for v in numbers if math.isfinite(v))


def fill(
    image: NDArray[np.float32],
    missing: NDArray[np.bool_],
    *,
    per_cell: int,
    mean: float,
) -> NDArray[np.float32]:
    """Return the image with missing pixels replaced, so that no NaN meets a network.

    A missing pixel takes the mean of the valid pixels of its own band in the cells at
    most `REACH` away, or the band's mean where there is none. The reach is bounded, and
    every sum runs in a fixed order, so the fill depends neither on the window nor on
    the chunking.

    Parameters
    ----------
    image
        ``(rows * per_cell, cols * per_cell)``, physical units; one band. Returned as it
        is if nothing is missing, copied otherwise.
    missing
        The same shape, True where `image` holds nothing.
    per_cell
        Pixels along the side of a cell.
    mean
        Of the band, in the units of `image`.
    """
    if not missing.any():
        return image
    filled = image.copy()
    gaps = _around(missing, per_cell)
    there = missing[gaps]
    local = _local_mean(image[gaps], there, per_cell, mean)
    repeated = local.repeat(per_cell, axis=0).repeat(per_cell, axis=1)
    np.copyto(filled[gaps], repeated, where=there)
    return filled


def _around(missing: NDArray[np.bool_], k: int) -> tuple[slice, slice]:
    """Return the rows and columns of all that missing pixels are filled from."""
    found = [np.flatnonzero(missing.any(axis=axis)) // k for axis in (1, 0)]
    rows, cols = (
        slice(k * max(int(n[0]) - REACH, 0), k * (int(n[-1]) + REACH + 1))
        for n in found
    )
    return rows, cols


def _local_mean(
    image: NDArray[np.float32], missing: NDArray[np.bool_], k: int, mean: float
) -> NDArray[np.float32]:
    values = np.where(missing, np.float32(0), image)
    sums = _box_sum(_cell_sum(values, k))
    counts = _box_sum(_cell_sum(~missing, k))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, mean).astype(np.float32)


def _cell_sum(values: NDArray[np.generic], k: int) -> NDArray[np.float64]:
    """Sum the k x k pixels of each cell, offset by offset: NumPy's own order varies."""
    total = np.zeros((values.shape[0] // k, values.shape[1] // k))
    for i in range(k):
        for j in range(k):
            total += values[i::k, j::k]
    return total


def _box_sum(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over the cells at most REACH away; cells outside count as nothing."""
    for _ in range(2):
        padded = np.pad(cells, [(REACH, REACH), (0, 0)])
        total = np.zeros_like(cells)
        for d in range(2 * REACH + 1):
            total += padded[d : d + len(cells)]
        cells = total.T
    return cells


def spread(cells: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """Return which cells see a marked one: within `margin` cells, corners included.

    `cells` is ``(rows + 2 margin, cols + 2 margin)``; the result ``(rows, cols)``.
    """
    for _ in range(2):
        n = len(cells) - 2 * margin
        seen = np.zeros((n, cells.shape[1]), bool)
        for d in range(2 * margin + 1):
            seen |= cells[d : d + n]
        cells = seen.T
    return cells
