"""The Dask array of a source: one layer, one task a chunk."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask._task_spec import Task
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from s2sr_xr.core.tiling import cuts
from s2sr_xr.readers.fetch.source_protocol import DIMS, dtype_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2sr_xr.readers.fetch.source_protocol import Source

__all__ = ["SourceLayer", "dask_array"]


class SourceLayer(MaterializedLayer):  # type: ignore[misc] # Dask is not typed
    """The tasks that read a source, and the source itself.

    A layer keeps its source through pickling; slicing, arithmetic, persisting and
    optimising make other layers, which have none.
    """

    def __init__(self, source: Source, name: str, chunk: int, *, timed: bool) -> None:
        super().__init__(dict(_tasks(source, name, chunk, timed=timed)))
        self.source = source


def dask_array(source: Source, chunk: int, *, timed: bool = True) -> Any:  # noqa: ANN401 - Dask is not typed
    """Return a source as a Dask array with square chunks of one time step.

    The name holds the band and a token of what decides the pixels. Without `timed`, the
    array has rows and columns only, of the first time step.
    """
    times, *sides = source.shape
    band = getattr(source, "band", type(source).__name__)
    facts = (source, chunk) if timed else (source, chunk, DIMS[1:])
    name = f"s2sr-read-{band}-{tokenize(*facts)}"
    layer = SourceLayer(source, name, chunk, timed=timed)
    chunks = tuple(tuple(map(len, cuts(n, chunk))) for n in sides)
    if timed:
        chunks = ((1,) * times, *chunks)
    meta = np.empty((0,) * len(chunks), dtype_of(source))
    return da.Array(
        HighLevelGraph({name: layer}, {name: set()}), name, chunks, meta=meta
    )


def _tasks(
    source: Source, name: str, chunk: int, *, timed: bool
) -> Iterator[tuple[Any, Any]]:
    """Yield one task a chunk; each carries the source of its own time step only."""
    times, *sides = source.shape
    rows, cols = ([slice(c.start, c.stop) for c in cuts(n, chunk)] for n in sides)
    for t in range(times if timed else 1):
        step = source.at(t)
        for (i, row), (j, col) in product(enumerate(rows), enumerate(cols)):
            key = (name, t, i, j) if timed else (name, i, j)
            yield key, Task(key, _read_chunk, step, row, col, timed)


def _read_chunk(step: Source, rows: slice, cols: slice, timed: bool) -> np.ndarray:  # noqa: FBT001 - a task's argument
    window = step.read(0, rows, cols)
    return window[None] if timed else window
