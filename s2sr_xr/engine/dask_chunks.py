"""Which Dask chunks meet a window, and how a block is put together from them."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import accumulate, product
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.tiling import Box, Span
from s2sr_xr.engine.pixels import sample
from s2sr_xr.errors import ChunkError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import dask.array as da
    from numpy.typing import NDArray


__all__ = ["Chunked", "Gathered", "Part", "by_ground", "corner"]


@dataclass(slots=True)
class Gathered:
    """The native pixels of a band, put together from parts of Dask chunks."""

    repeat: int
    band: str
    parts: list[tuple[Box, NDArray[Any]]] = field(default_factory=list)

    def read(self, time: int, rows: slice, cols: slice) -> NDArray[np.float32]:  # noqa: ARG002
        """Return a window of native pixels, NaN where no chunk lies."""
        k = self.repeat
        window = Box(Span(rows.start, rows.stop), Span(cols.start, cols.stop)).scale(k)
        out = np.full(window.shape, np.nan, np.float32)
        for box, values in self.parts:
            meet = box.meet(window)
            if meet is not None:
                out[meet.slices_in(window)] = values[meet.slices_in(box)]
        return sample(out, k, self.band)


@dataclass(frozen=True, slots=True)
class Part:
    """A window of one Dask chunk of one band."""

    band: str
    key: tuple[Any, ...]
    time: int | None
    """Index along time inside the chunk; None without that axis."""
    chunk: Box
    """Where the chunk lies, in pixels of its array."""
    window: Box
    """The part of it that is wanted."""
    ground: tuple[float, ...]
    """The chunk's rows and columns in metres from the corner, to match other bands."""

    steps: int
    """Time steps in the chunk, of which one is wanted."""

    @property
    def share(self) -> float:
        """How much of the chunk is wanted, in 0..1."""
        wanted, held = math.prod(self.window.shape), math.prod(self.chunk.shape)
        return wanted / (held * self.steps)

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the window out of the chunk's values, without a copy."""
        values = values if self.time is None else values[self.time]
        return np.asarray(values[self.window.slices_in(self.chunk)])


def corner(box: Box) -> tuple[int, int]:
    """Return the first row and column of a box."""
    return box.rows.start, box.cols.start


class Chunked:
    """A band in a Dask array that is not ours: which chunks meet a window."""

    def __init__(self, band: str, array: da.Array, repeat: int, res: float) -> None:
        self.band, self.array, self.repeat, self.res = band, array, repeat, res
        *lead, rows, cols = array.chunks
        if any(math.isnan(n) for axis in array.chunks for n in axis):
            raise ChunkError(
                f"{band} has chunks of unknown size. Call compute_chunk_sizes() on its "
                "Dask array first."
            )
        self.edges = [[0, *accumulate(axis)] for axis in (rows, cols)]
        self.times = [0, *accumulate(lead[0])] if lead else None

    def parts(self, time: int, native: Box) -> Iterator[Part]:
        """Yield the part of each chunk that meets a window of native pixels."""
        window = native.scale(self.repeat)
        lead: tuple[int, ...] = ()
        local, steps = None, 1
        if self.times is not None:
            n = bisect_right(self.times, time) - 1
            lead, local = (n,), time - self.times[n]
            steps = self.times[n + 1] - self.times[n]
        spans = zip(self.edges, (window.rows, window.cols), strict=True)
        for (i, r), (j, c) in product(*(list(_meeting(e, s)) for e, s in spans)):
            chunk = Box(r, c)
            part = chunk.meet(window)
            assert part is not None
            key = (self.array.name, *lead, i, j)
            ground = tuple(n * self.res for s in (r, c) for n in (s.start, s.stop))
            yield Part(self.band, key, local, chunk, part, ground, steps)


def _meeting(edges: list[int], span: Span) -> Iterator[tuple[int, Span]]:
    first = bisect_right(edges, span.start) - 1
    last = bisect_left(edges, span.stop)
    for n in range(first, last):
        if edges[n] < edges[n + 1]:
            yield n, Span(edges[n], edges[n + 1])


def by_ground(parts: Sequence[Part]) -> list[list[Part]]:
    """Return the parts together whose chunks cover the same ground, of all bands."""
    groups = defaultdict(list)
    for part in parts:
        groups[part.ground].append(part)
    return list(groups.values())
