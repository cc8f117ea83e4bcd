"""The few parts of a scene that its point spread is measured on, read as counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.errors import GridError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from s2sr_xr.core.scene import Plane, Scene

    Floats = NDArray[np.float64]

__all__ = ["FINE", "LEAST", "Part", "read_parts"]

FINE = 10
"""Side of the finest pixels, in metres: those that widths are measured beside."""

COUNTS = 1e4
"""Of a reflectance of 1."""

SIDE, ACROSS = 240, 3
"""Fine pixels along the side of a part; most parts along a side of the scene."""

WHOLE = 360
"""Fine pixels along a side up to which a scene is one part."""

LEAST = 24
"""Coarse pixels along a side that a measurement needs."""

TIMES = 4
"""Dates that are read, of more; each in other places."""

MOST = 5
"""Parts that are kept: those with most to see."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the scene at one time, in counts; NaN where missing."""

    place: tuple[int, ...]
    """Which it is: date, row, column."""

    fine: Floats
    """``(P, h * factor, w * factor)``."""

    coarse: Mapping[str, Floats]
    """``(h, w)`` by band."""


@dataclass(frozen=True, slots=True)
class _Common:
    """Where the native pixels of fine and coarse bands cover the same ground."""

    fine: tuple[int, int]
    """First row and column of the fine bands."""

    coarse: tuple[int, int]
    """First row and column of the coarse bands' variables."""

    shape: tuple[int, int]
    """Whole coarse pixels, down and across."""


def read_parts(scene: Scene, fine: Sequence[str], coarse: Sequence[str]) -> list[Part]:
    """Return parts of the scene, evenly spread; none where it is too small.

    Parameters
    ----------
    scene
        What is read, part by part.
    fine
        Bands of 10 m.
    coarse
        Bands of one coarser pixel size.

    Raises
    ------
    GridError
        Bands of one pixel size lie on different grids.
    """
    import dask

    factor = BANDS[coarse[0]].native // FINE
    common = _common(scene, fine, coarse)
    if min(common.shape) < LEAST:
        return []
    parts = []
    for (time, *at), spans in _places(scene.planes[fine[0]], common, factor):
        lazy = {}
        for b in (*fine, *coarse):
            plane = scene.planes[b]
            whole = plane.variable if time < 0 else plane.variable[time]
            lazy[b] = whole[_cut(plane, common, spans, factor * FINE)].data
        (read,) = dask.compute(lazy)
        counts = {b: np.asarray(a, np.float64) * COUNTS for b, a in read.items()}
        stack = np.stack([counts[b] for b in fine])
        if np.isfinite(stack).mean() > 0.2:
            there = {b: counts[b] for b in coarse}
            parts.append(Part((time, *at), stack, there))
    return sorted(parts, key=lambda p: -_relief(p.fine))[:MOST]


def _relief(fine: Floats) -> float:
    """Return how much there is to see: the steps that one pixel in ten exceeds."""
    steps = np.abs(np.diff(fine, axis=-1)).sum(0)
    return float(np.nanquantile(steps, 0.9))


def _common(scene: Scene, fine: Sequence[str], coarse: Sequence[str]) -> _Common:
    first, other = scene.planes[fine[0]], scene.planes[coarse[0]]
    for names, one in ((fine, first), (coarse, other)):
        for b in names:
            if scene.planes[b].grid != one.grid:
                raise GridError(
                    f"{b} and {names[0]} have pixels of one size but lie on different "
                    "grids. Cut all groups at once: obj.s2sr.window(x=..., y=...)."
                )
    if first.grid.crs != other.grid.crs:
        raise GridError(
            f"{fine[0]} and {coarse[0]} lie in different UTM zones; load both on the "
            "product's own grid."
        )
    step, own, res = other.native, first.grid, other.grid.res
    west, north = other.grid.x_edge, other.grid.y_edge
    if other.repeat > 1:  # native pixels count from where cells do
        west += -other.grid.phase[0] % step
        north -= other.grid.phase[1] % step
    left = west + max(math.ceil((own.x_edge - west) / step - 1e-6), 0) * step
    top = north - max(math.ceil((north - own.y_edge) / step - 1e-6), 0) * step
    ends = [own.extent, other.grid.extent]
    right, bottom = min(e[2] for e in ends), max(e[1] for e in ends)
    return _Common(
        (round((own.y_edge - top) / FINE), round((left - own.x_edge) / FINE)),
        (
            round((other.grid.y_edge - top) / res),
            round((left - other.grid.x_edge) / res),
        ),
        (
            int(max(top - bottom, 0) / step + 1e-6),
            int(max(right - left, 0) / step + 1e-6),
        ),
    )


def _places(
    plane: Plane, common: _Common, factor: int
) -> list[tuple[tuple[int, int, int], tuple[slice, slice]]]:
    """Return date, row and column of the parts, and where they lie in coarse pixels.

    Of several dates, each is read in other places. The date is -1 where there is none.
    """
    spread = [_spans(n, factor) for n in common.shape]
    spans = [
        ((r, c), (rows, cols))
        for r, rows in enumerate(spread[0])
        for c, cols in enumerate(spread[1])
    ]
    if "time" not in plane.variable.dims:
        return [((-1, *at), span) for at, span in spans]
    count = plane.variable.sizes["time"]
    times = [int(t) for t in np.linspace(0, count - 1, min(count, TIMES))]
    rounds = max(len(times), len(spans))
    return [
        ((times[n % len(times)], *spans[n % len(spans)][0]), spans[n % len(spans)][1])
        for n in range(rounds)
    ]


def _spans(size: int, factor: int) -> list[slice]:
    """Return the parts along a side, in coarse pixels."""
    if size * factor <= WHOLE:
        return [slice(0, size)]
    count = min(max(round(size * factor / SIDE), 2), ACROSS)
    side = min(SIDE // factor, size // count)
    return [slice(int(n), int(n) + side) for n in np.linspace(0, size - side, count)]


def _cut(
    plane: Plane, common: _Common, spans: tuple[slice, slice], step: int
) -> tuple[slice, slice]:
    """Return the rows and columns of a plane under a span of coarse pixels.

    One sample of each native pixel.
    """
    per = round(step / plane.grid.res)
    first = common.fine if plane.native == FINE else common.coarse
    rows, cols = (
        slice(f + s.start * per, f + s.stop * per, plane.repeat)
        for f, s in zip(first, spans, strict=True)
    )
    return rows, cols
