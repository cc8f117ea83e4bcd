"""Two detectors of L1B that see the same ground: how far apart they lie."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from s2sr_xr.core.bands import by_resolution
from s2sr_xr.core.tiling import Box, Span
from s2sr_xr.errors import GridError, MissingBandError
from s2sr_xr.readers.l1b.align import GREEN
from s2sr_xr.readers.l1b.raster import pixels
from s2sr_xr.readers.l1b.shift import estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr
    from numpy.typing import NDArray

    from s2sr_xr.readers.l1b.shift import Shift

__all__ = [
    "COARSE",
    "LONGEST",
    "MOST_PIXELS",
    "SURE",
    "WINDOWS",
    "Offset",
    "Pair",
    "View",
    "from_ground",
]

COARSE = 48
"""Largest error of a coarse translation that is looked for, in pixels. Corners alone
are a few pixels off over flat ground."""


SURE = 0.4
"""Correlation of green with green from which a translation is believed. The same ground
gives 0.8 and more."""


WINDOWS, LONGEST = 9, 512
"""How many windows along an overlap decide its translation, and their lines; also the
lines that are read at once for crops."""


MOST_PIXELS = 2**22
"""Largest image whose place is found by correlating all of it."""


class Offset(NamedTuple):
    """From a pixel of one detector to the same ground in its neighbour."""

    y: int
    """Added to a line of the first detector."""

    x: int
    """Added to a sample of the first detector."""


class View:
    """One detector, addressed by line and sample."""

    def __init__(self, name: str, ds: xr.Dataset) -> None:
        if GREEN not in ds:
            raise MissingBandError(
                f"{name} has no {GREEN}, by which detectors are compared (it has "
                f"{', '.join(map(str, ds.data_vars)) or 'no bands'}).",
                band=GREEN,
            )
        self.name = name
        self.ds = ds[[b for b in by_resolution(10) if b in ds]]
        self.ties = np.array(ds.attrs.get("tie_points", ())).reshape(-1, 4)
        self.box = Box(
            *(
                Span(first := round(float(ds[d][0]) - 0.5), first + ds.sizes[d])
                for d in ("y", "x")
            )
        )

    def cut(self, box: Box) -> xr.Dataset:
        """Return the pixels of lines and samples inside, in memory."""
        rows, cols = box.slices_in(self.box)
        part = self.ds.isel(y=rows, x=cols)
        for band, array in self.ds.data_vars.items():
            values = np.array(pixels(array, rows, cols))  # never a view of a strip
            part[band] = (array.dims, values, array.attrs)
        return part

    def green(self, box: Box) -> NDArray[np.float32]:
        """Return green, NaN where the detector has no such line or sample."""
        out = np.full(box.shape, np.nan, np.float32)
        if meet := box.meet(self.box):
            out[meet.slices_in(box)] = pixels(self.ds[GREEN], *meet.slices_in(self.box))
        return out


class Pair:
    """Two neighbours."""

    def __init__(self, a: View, b: View) -> None:
        self.a, self.b = a, b

    def coarse(self) -> Offset:
        """Return the translation from corners on the ground, or from whole images."""
        if len(self.a.ties) and len(self.b.ties):
            return from_ground(self.a.ties, self.b.ties)
        a, b = self.a.box, self.b.box
        rows, cols = (max(n, m) for n, m in zip(a.shape, b.shape, strict=True))
        if rows * cols > MOST_PIXELS:
            raise self._lost("their images are too large to compare")
        images = self.a.green(a), self.b.green(b)
        shift = estimate([images], reach=(rows - 8, cols - 8), least=0.1)
        if shift.score < SURE:
            raise self._lost(f"their images do not match ({shift.score:.2f})")
        corners = Offset(b.rows.start - a.rows.start, b.cols.start - a.cols.start)
        return _add(corners, shift)

    def _lost(self, why: str) -> GridError:
        a, b = (int(view.name[1:]) for view in (self.a, self.b))
        return GridError(
            f"Nothing says where {self.b.name} lies against {self.a.name}: their "
            f"metadata have no corners, and {why}. Give offsets={{({a}, {b}): "
            "(lines, samples)}."
        )

    def shared(self, offset: Offset) -> Box | None:
        """Return the lines and samples of the first that the second saw too."""
        return self.a.box.meet(_moved(self.b.box, Offset(-offset.y, -offset.x)))

    def regressed(self, offset: Offset) -> Offset:
        """Return the translation that fits windows all along the overlap best."""
        around = self.a.box
        shared = self.shared(offset)
        if shared is None:
            return offset
        # The coarse translation may be off, and the true overlap wider by as much.
        cols = shared.cols.grow(COARSE).meet(around.cols)
        assert cols is not None
        side = min(LONGEST, len(shared.rows))
        starts = np.linspace(shared.rows.start, shared.rows.stop - side, WINDOWS)
        pairs = (
            self._green(Box(Span(start, start + side), cols), offset, COARSE)
            for start in sorted({round(s) for s in starts})
        )
        found = _believed(estimate(pairs, reach=COARSE), COARSE)
        return _add(offset, found) if found.score >= SURE else offset

    def crops(
        self, offset: Offset, size: tuple[int, int], min_valid: float, reach: int
    ) -> Iterator[tuple[xr.Dataset, xr.Dataset, Offset]]:
        """Yield the crops of the overlap, each with its own translation."""
        shared = self.shared(offset)
        if shared is None:
            return
        rows, cols = (
            [Span(at, at + n) for at in range(span.start, span.stop - n + 1, n)]
            for span, n in zip((shared.rows, shared.cols), size, strict=True)
        )
        # Crops of the same lines lie in the same blocks of a JPEG 2000 file: read by
        # strips, ten crops of two full-size detectors take 1.3 s instead of 15.
        each = max(LONGEST // size[0], 1)
        for at in range(0, len(rows), each) if cols else ():
            strip = rows[at : at + each]
            near = self._strip(
                Box(
                    Span(strip[0].start, strip[-1].stop),
                    Span(cols[0].start, cols[-1].stop),
                ),
                offset,
                reach,
            )
            for down, across in product(strip, cols):
                yield from near.crop(Box(down, across), offset, min_valid, reach)

    def _strip(self, box: Box, offset: Offset, reach: int) -> Pair:
        """Return the same pair, in memory, where the first is inside `box`."""
        there = _moved(box, offset).grow(reach).meet(self.b.box)
        assert there is not None
        return Pair(
            View(self.a.name, self.a.cut(box)), View(self.b.name, self.b.cut(there))
        )

    def crop(
        self, box: Box, offset: Offset, min_valid: float, reach: int
    ) -> Iterator[tuple[xr.Dataset, xr.Dataset, Offset]]:
        """Yield one crop, unless the second did not see it or too much is missing."""
        found = self._refined(box, offset, reach)
        there = _moved(box, found)
        if there.meet(self.b.box) == there:
            views = self.a.cut(box), self.b.cut(there)
            if min(map(_valid, views)) >= min_valid:
                yield (*views, found)

    def _refined(self, box: Box, offset: Offset, reach: int) -> Offset:
        if reach < 1:
            return offset
        pair = self._green(box, offset, reach)
        if not all(np.isfinite(image).any() for image in pair):
            return offset
        found = _believed(estimate([pair], reach=reach), reach)
        return _add(offset, found) if found.score >= SURE else offset

    def _green(
        self, box: Box, offset: Offset, margin: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return green of both, the second with a margin of what lies around.

        The first is framed by NaN as wide, so that both begin at the same place.
        """
        first = np.pad(self.a.green(box), margin, constant_values=np.nan)
        return first, self.b.green(_moved(box, offset).grow(margin))


def from_ground(a: NDArray[np.float64], b: NDArray[np.float64]) -> Offset:
    """Return the translation between two detectors from their granules' corners.

    Each granule of the second is put on the nearest one of the first, whose corners
    give an affine map from the ground to lines and samples.
    """
    # Degrees to a plane: the meridian of the first corner, and the width of a degree.
    origin, width = a[0, 3], np.cos(np.radians(a[:, 2].mean()))
    flat_a, flat_b = (
        np.stack([t[:, 2], ((t[:, 3] - origin + 180) % 360 - 180) * width], 1)
        for t in (a, b)
    )
    groups = flat_a.reshape(-1, 4, 2)
    found = []
    for ground, seen in zip(
        flat_b.reshape(-1, 4, 2), b[:, :2].reshape(-1, 4, 2), strict=True
    ):
        distance = np.linalg.norm(groups.mean(1) - ground.mean(0), axis=1)
        near = int(distance.argmin())
        known = np.column_stack([groups[near], np.ones(4)])
        spots = a[4 * near : 4 * near + 4, :2]
        to_pixel, *_ = np.linalg.lstsq(known, spots, rcond=None)
        middle = groups[near].mean(0)
        # The corners that lie towards the neighbour; the others are extrapolated.
        close = np.linalg.norm(ground - middle, axis=1).argsort()[:2]
        there = np.column_stack([ground[close], np.ones(2)]) @ to_pixel
        found += list(seen[close] - there)
    y, x = np.median(np.array(found), axis=0)
    return Offset(round(float(y)), round(float(x)))


def _believed(shift: Shift, reach: int) -> Shift:
    """Return a shift, without belief where it lies on the border of what was tried."""
    inside = max(abs(shift.y), abs(shift.x)) < reach
    return shift if inside else shift._replace(score=0.0)


def _moved(box: Box, offset: Offset) -> Box:
    """Return where the second detector saw what the first saw inside `box`."""
    return Box(box.rows.shift(offset.y), box.cols.shift(offset.x))


def _add(offset: Offset, shift: Shift) -> Offset:
    return Offset(offset.y + shift.y, offset.x + shift.x)


def _valid(view: xr.Dataset) -> float:
    """Return the share of pixels that are there in the band with the fewest."""
    return min(float(np.isfinite(a.to_numpy()).mean()) for a in view.values())
