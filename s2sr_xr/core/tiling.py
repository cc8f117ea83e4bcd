"""The tile grid: which tiles there are, what each one reads, and what it keeps.

Integers only, counted in **cells**: the footprint of the coarsest input pixel of a
model. The words, with one meaning everywhere:

cell
    The unit of everything here.
margin
    How far a network looks beyond what it writes, in cells. A fact of the model.
halo
    What is read beyond what is written: the margin and the reach of the no-data fill.
tile
    What the network writes at once; always the same size for one object.
tile grid
    The grid of tiles. It starts at the first cell of the object in hand, never at a
    chunk, so the same tiles are evaluated whatever the chunking.
chunk
    Dask's unit.
block
    What one task computes and writes: a whole number of tiles.

Beyond the edge of the object its cells are mirrored, edge cell included
(``np.pad(mode="symmetric")``), so that pixels of all sizes stay nested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REACH", "Box", "Span", "cuts", "mirror", "mirrored_source"]

REACH = 2
"""How far a missing pixel looks for valid ones of its own band, in cells. Part of the
halo: a fill with no bound would depend on the window that is read."""

CORRECTION = 1
"""How far, in cells, putting the means right looks beyond a cell: `consistency`."""


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of cells or pixels along one axis."""

    start: int
    """First element."""

    stop: int
    """One past the last element."""

    def __post_init__(self) -> None:
        if self.stop < self.start:
            raise ValueError(f"A span runs forward, got [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def grow(self, by: int) -> Span:
        """Return the span widened by `by` on both sides."""
        return Span(self.start - by, self.stop + by)

    def clip(self, n: int) -> Span:
        """Return the part inside [0, `n`)."""
        start = min(max(self.start, 0), n)
        return Span(start, max(min(self.stop, n), start))

    def scale(self, by: int) -> Span:
        """Return the same range in elements `by` times smaller."""
        return Span(self.start * by, self.stop * by)

    def outward(self, size: int) -> Span:
        """Return the smallest range of whole groups of `size` that holds this one.

        >>> Span(5, 11).outward(4)
        Span(start=4, stop=12)
        """
        return Span(self.start // size * size, -(-self.stop // size) * size)

    def group(self, size: int) -> Span:
        """Return the smallest range of groups of `size` that holds this one.

        >>> Span(5, 11).group(4)
        Span(start=1, stop=3)
        """
        return Span(self.start // size, -(-self.stop // size))

    def shift(self, by: int) -> Span:
        """Return the range moved by `by`."""
        return Span(self.start + by, self.stop + by)

    def union(self, other: Span) -> Span:
        """Return the smallest range that holds both."""
        return Span(min(self.start, other.start), max(self.stop, other.stop))

    def meet(self, other: Span) -> Span | None:
        """Return the range that lies in both, or None."""
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        return Span(start, stop) if start < stop else None

    def slice_in(self, outer: Span) -> slice:
        """Return the slice that cuts this range out of an array that holds `outer`."""
        return slice(self.start - outer.start, self.stop - outer.start)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: a range of rows and one of columns."""

    rows: Span
    """Along y, downwards."""

    cols: Span
    """Along x, to the right."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows), len(self.cols)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The slices that cut this box out of the whole array."""
        return (
            slice(self.rows.start, self.rows.stop),
            slice(self.cols.start, self.cols.stop),
        )

    def grow(self, by: int) -> Box:
        """Return the box widened by `by` on all four sides."""
        return Box(self.rows.grow(by), self.cols.grow(by))

    def clip(self, shape: tuple[int, int]) -> Box:
        """Return the part inside an array of `shape`."""
        return Box(self.rows.clip(shape[0]), self.cols.clip(shape[1]))

    def scale(self, by: int) -> Box:
        """Return the same rectangle in elements `by` times smaller."""
        return Box(self.rows.scale(by), self.cols.scale(by))

    def outward(self, size: tuple[int, int]) -> Box:
        """Return the smallest box of whole groups of `size` that holds this one."""
        return Box(self.rows.outward(size[0]), self.cols.outward(size[1]))

    def group(self, size: int) -> Box:
        """Return the smallest box of groups of `size` that holds this one."""
        return Box(self.rows.group(size), self.cols.group(size))

    def union(self, other: Box) -> Box:
        """Return the smallest box that holds both."""
        return Box(self.rows.union(other.rows), self.cols.union(other.cols))

    def meet(self, other: Box) -> Box | None:
        """Return the rectangle that lies in both, or None."""
        rows, cols = self.rows.meet(other.rows), self.cols.meet(other.cols)
        return Box(rows, cols) if rows and cols else None

    def slices_in(self, outer: Box) -> tuple[slice, slice]:
        """Return the slices that cut this box out of an array that holds `outer`."""
        return self.rows.slice_in(outer.rows), self.cols.slice_in(outer.cols)


def cuts(n: int, size: int) -> Iterator[Span]:
    """Yield ranges of `size` that cover [0, `n`) once; the last may be shorter.

    >>> [(s.start, s.stop) for s in cuts(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, n, size):
        yield Span(start, min(start + size, n))


def mirror(index: int, n: int) -> int:
    """Return where in [0, `n`) the mirrored cell `index` is taken from.

    The edge is repeated, as ``np.pad(mode="symmetric")`` does, any number of times.

    >>> [mirror(i, 3) for i in range(-4, 7)]
    [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]
    """
    folded = index % (2 * n)
    return min(folded, 2 * n - 1 - folded)


def mirrored_source(span: Span, n: int) -> Span:
    """Return the range of [0, `n`) that holds every cell `span` is mirrored from.

    >>> mirrored_source(Span(-3, 2), 10), mirrored_source(Span(8, 16), 10)
    (Span(start=0, stop=3), Span(start=4, stop=10))
    """
    inside = span.clip(n)
    before = max(-span.start, 0)
    after = max(span.stop - n, 0)
    start = inside.start if not after else min(inside.start, max(n - after, 0))
    stop = inside.stop if not before else max(inside.stop, min(before, n))
    return Span(start, stop)
