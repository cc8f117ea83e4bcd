"""The bands of a detector brought to green, by whole pixels."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.core.tiling import Box, Span
from s2sr_xr.errors import GridError, MissingBandError, S2SRWarning
from s2sr_xr.readers.fetch.source import as_variable, source_of
from s2sr_xr.readers.l1b.product import BANDS_10M
from s2sr_xr.readers.l1b.raster import DetectorSource, pixels
from s2sr_xr.readers.l1b.shift import estimate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr

    from s2sr_xr.readers.l1b.shift import Shift

__all__ = ["GREEN", "GROUP", "align_to_green"]

GREEN = "B03"
"""The band that the others are brought to."""

REACH = 16
"""Largest shift between bands that is looked for, in pixels. Real ones are 0 to 2."""

LEAST_SCORE = 0.15
"""Correlation with green below which texture decides nothing. Real scenes: blue and red
0.8 to 0.9, near infrared 0.3 to 0.5; noise of a whole window stays below 0.05."""

SIDE, MOST_DOWN, MOST_ACROSS = 512, 4, 2
"""Side of the windows that a shift is estimated on, and how many along y and x."""

GROUP = re.compile(r"d(?:0[1-9]|1[0-2])")
"""Names of the groups that are detectors."""


def align_to_green(tree: xr.DataTree) -> xr.DataTree:
    """Return the tree with bands moved by whole pixels to where green lies.

    Reads pixels: of each detector, up to eight windows of 512 pixels in all bands. The
    bands themselves stay lazy. One shift is found for a detector and band, as the best
    correlation of gradients with green's over all windows together: the nearest whole
    pixel where texture is, so at most about half a pixel from the right place, in each
    direction; a shift within some 0.1 of a half may go to either side. Nothing is
    resampled. Aligning again changes nothing.

    Parameters
    ----------
    tree
        Of `open_l1b`, or a part of one: groups ``d01`` ... ``d12``, dims ``(y, x)``.

    Returns
    -------
    xr.DataTree
        The same detectors. A band's ``shift_y`` and ``shift_x`` say by how many lines
        and samples it was moved down and to the right in all; ``shift_score`` is the
        correlation with green there. NaN where the shift has moved it away.

    Raises
    ------
    GridError
        The tree has no detectors.
    MissingBandError
        A detector has no green band.
    ReadError
        Pixels could not be read.

    Warns
    -----
    S2SRWarning
        A band has no texture in common with green; it stays where it is.
    """
    names = [name for name in tree.children if GROUP.fullmatch(name)]
    if not names:
        raise GridError(
            f"The tree has the groups {sorted(tree.children)}, none of d01 to d12. "
            "Open L1B with s2sr_xr.open_l1b."
        )
    aligned = tree.copy()
    for name in names:
        aligned[name].dataset = _align(tree[name].to_dataset(), name)
    return aligned


def _align(ds: xr.Dataset, name: str) -> xr.Dataset:
    """Return one detector with its bands on green."""
    if GREEN not in ds:
        raise MissingBandError(
            f"{name} has no {GREEN}, which the others are brought to (it has "
            f"{', '.join(map(str, ds.data_vars)) or 'no bands'}).",
            band=GREEN,
        )
    others = [b for b in BANDS_10M if b in ds and b != GREEN]
    for band, shift in _shifts(ds, others).items():
        if shift.score < LEAST_SCORE:
            warnings.warn(
                f"{band} of {name} has no texture in common with {GREEN} (correlation "
                f"{shift.score:.2f}); it stays where it is.",
                S2SRWarning,
                stacklevel=3,
            )
            continue
        ds[band] = _moved(ds[band], -shift.y, -shift.x, shift.score)
    return ds


def _shifts(ds: xr.Dataset, others: Sequence[str]) -> dict[str, Shift]:
    """Return where the content of other bands lies against green's."""
    shape = ds.sizes["y"], ds.sizes["x"]
    windows = [
        {b: pixels(ds[b], *box.slices) for b in (GREEN, *others)}
        for box in _windows(shape)
    ]
    reach = (min(REACH, shape[0] // 4), min(REACH, shape[1] // 4))
    return {
        b: estimate([(w[GREEN], w[b]) for w in windows], reach=reach) for b in others
    }


def _windows(shape: tuple[int, int]) -> Iterator[Box]:
    """Yield windows spread evenly over an image, the whole where it is small.

    >>> [w.cols for w in _windows((100, 2548))]
    [Span(start=0, stop=512), Span(start=2036, stop=2548)]
    """
    rows, cols = (
        [
            Span(start, start + min(SIDE, n))
            for start in np.linspace(
                0, max(n - SIDE, 0), min(most, -(-n // SIDE)), dtype=int
            ).tolist()
        ]
        for n, most in zip(shape, (MOST_DOWN, MOST_ACROSS), strict=True)
    )
    for down, across in product(rows, cols):
        yield Box(down, across)


def _moved(array: xr.DataArray, down: int, right: int, score: float) -> xr.Variable:
    """Return a band moved by whole pixels, as lazy as it was."""
    variable = array.variable
    attrs = {
        **variable.attrs,
        "shift_y": int(variable.attrs.get("shift_y", 0)) + down,
        "shift_x": int(variable.attrs.get("shift_x", 0)) + right,
        "shift_score": round(score, 3),
    }
    source = source_of(variable)
    if isinstance(source, DetectorSource):
        before = source.shift
        source = replace(source, shift=(before[0] + down, before[1] + right))
        sides = variable.chunks
        chunk = None if sides is None else max(map(max, sides))
        return as_variable(source, chunk, attrs, timed=False)
    moved: xr.Variable = variable.shift(y=down, x=right)
    moved.attrs = attrs
    return moved
