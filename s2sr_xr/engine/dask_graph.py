"""Blocks over Dask arrays: one task a block, nothing read before it runs.

A block of an unmodified tree of our readers reads its own window. A block of any other
Dask array depends on the source chunks that it meets: on those it mostly covers as they
are, and on one copied strip of each neighbour, all bands at once. No ``map_overlap``,
no rechunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from s2sr_xr.engine import thread_team
from s2sr_xr.engine.block import do_block
from s2sr_xr.engine.dask_chunks import Chunked, Gathered, Part, by_ground, corner
from s2sr_xr.engine.job import dtype_of
from s2sr_xr.engine.lazy import Made, MadeLayer
from s2sr_xr.readers.fetch.source import source_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from s2sr_xr.core.tiling import Box
    from s2sr_xr.engine.job import BlockTask, Job
    from s2sr_xr.engine.pixels import Pixels

__all__ = ["Graph", "arrays", "run_block"]


def _cut(parts: Sequence[Part], chunks: Sequence[NDArray[Any]]) -> list[Any]:
    """Return the strips of one neighbour, all bands at once."""
    # A copy, or the strip would keep its whole chunk alive.
    return [p.cut(c).copy() for p, c in zip(parts, chunks, strict=True)]


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What one block needs besides its Dask chunks, and where these go."""

    pixels: Mapping[str, Pixels]
    """Bands that the task reads itself."""

    repeats: Mapping[str, int]
    """Bands that are put together from chunks, and how often a pixel is repeated."""

    whole: tuple[Part, ...]
    """Parts of the chunks that arrive whole."""

    strips: tuple[tuple[Part, ...], ...]
    """Parts that arrive cut, a group a neighbour."""


def run_block(
    task: BlockTask,
    box: Box,
    inputs: _Inputs,
    chunks: Sequence[NDArray[Any]],
    strips: Sequence[Sequence[NDArray[Any]]],
) -> dict[str, NDArray[Any]]:
    """Compute a block inside a Dask task."""
    gathered = {b: Gathered(k, b) for b, k in inputs.repeats.items()}
    for part, chunk in zip(inputs.whole, chunks, strict=True):
        gathered[part.band].parts.append((part.window, part.cut(chunk)))
    for group, arrived in zip(inputs.strips, strips, strict=True):
        for part, strip in zip(group, arrived, strict=True):
            gathered[part.band].parts.append((part.window, strip))
    with thread_team.TEAM.at_work():
        return do_block(task, box, 0, {**inputs.pixels, **gathered})


class Graph:
    """Makes the tasks of one job, block by block."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pixels: dict[str, Any] = {}
        self.chunked: dict[str, Chunked] = {}
        for band, plane in job.planes.items():
            # Where another band is lazy, one that is not becomes a single chunk.
            whole = plane.variable.chunks is None
            array = (plane.variable.chunk() if whole else plane.variable).data
            source = source_of(array) if plane.repeat == 1 else None
            if source is not None:
                self.pixels[band] = source
            else:
                self.chunked[band] = Chunked(band, array, plane.repeat, plane.grid.res)
        names = {b: c.array.name for b, c in self.chunked.items()}
        self.token: str = tokenize(job.task, job.blocks, names, self.pixels)

    @property
    def sources(self) -> list[da.Array]:
        """The Dask arrays whose chunks the blocks need."""
        return [c.array for c in self.chunked.values()]

    def inputs(
        self, time: int, box: Box, task: BlockTask, stem: str
    ) -> tuple[list[Any], dict[Any, Any]]:
        """Return the arguments of `run_block` for a block, and the strips it needs."""
        windows = task.reads(box)
        wanted = [b for b in self.chunked if b in windows]
        parts = [p for b in wanted for p in self.chunked[b].parts(time, windows[b])]
        whole: list[Part] = []
        groups: list[tuple[Part, ...]] = []
        strips: dict[Any, Any] = {}
        for group in by_ground(parts):
            if max(p.share for p in group) >= 0.5:
                whole += group
                continue
            key = (f"s2sr-strip-{self.token}", stem, time, *corner(box), len(groups))
            refs = List(*(TaskRef(p.key) for p in group))
            strips[key] = Task(key, _cut, tuple(group), refs)
            groups.append(tuple(group))
        inputs = _Inputs(
            {b: p.at(time) for b, p in self.pixels.items() if b in windows},
            {b: self.chunked[b].repeat for b in wanted},
            tuple(whole),
            tuple(groups),
        )
        chunks = List(*(TaskRef(p.key) for p in whole))
        return [task, box, inputs, chunks, List(*map(TaskRef, strips))], strips

    def layer(self) -> tuple[str, dict[Any, Any]]:
        """Return the name and the tasks of the layer that computes every block."""
        name = f"s2sr-block-{self.token}"
        tasks: dict[Any, Any] = {}
        for t, (i, j, box) in product(range(self.job.steps), self.job.blocks):
            args, strips = self.inputs(t, box, self.job.task, "block")
            tasks |= strips
            tasks[name, t, i, j] = Task((name, t, i, j), run_block, *args)
        return name, tasks


def arrays(job: Job) -> dict[str, da.Array]:
    """Return the variables a job makes, as Dask arrays with one task a block.

    Bands that are only handed on are blocks of their own: looking at one runs no
    network. Each variable carries the job behind it; `lazy.origins` finds it again.

    Raises
    ------
    ChunkError
        A source array has chunks of unknown size.
    """
    native, made = set(job.task.native), set(job.task.names) - set(job.task.native)
    graphs = [Graph(job.only(names)) for names in (native, made) if names]
    token = tokenize(*(graph.token for graph in graphs))
    return {n: a for graph in graphs for n, a in _arrays(graph, job, token).items()}


def _arrays(graph: Graph, whole: Job, token: str) -> dict[str, da.Array]:
    job = graph.job
    name, tasks = graph.layer()
    base = HighLevelGraph.from_collections(name, tasks, graph.sources)
    lead = () if job.times is None else ((1,) * job.times,)
    out = {}
    for variable in job.task.names:
        own = f"s2sr-{variable}-{graph.token}"
        items = {}
        for t, (i, j, _) in product(range(job.steps), job.blocks):
            key = (own, *(t,) * len(lead), i, j)
            items[key] = Task(key, _item, TaskRef((name, t, i, j)), variable, len(lead))
        made = MadeLayer(items, Made(whole, token, variable))
        hlg = HighLevelGraph(
            {**base.layers, own: made}, {**base.dependencies, own: {name}}
        )
        meta = np.empty((0,) * (2 + len(lead)), dtype_of(variable))
        out[variable] = da.Array(hlg, own, lead + job.blocks.chunks, meta=meta)
    return out


def _item(block: Mapping[str, NDArray[Any]], name: str, lead: int) -> NDArray[Any]:
    values = block[name]
    return values.reshape((1,) * lead + values.shape)
