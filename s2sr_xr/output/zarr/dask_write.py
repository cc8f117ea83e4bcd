"""The Dask graph that writes a lazy result, one task a block."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from s2sr_xr.engine import thread_team
from s2sr_xr.engine.block import on_gpu
from s2sr_xr.engine.dask_chunks import Chunked, Part
from s2sr_xr.engine.dask_graph import Graph, run_block
from s2sr_xr.engine.lazy import origins
from s2sr_xr.output.zarr.write import locked, write_block

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from s2sr_xr.core.tiling import Box
    from s2sr_xr.engine.job import Blocks
    from s2sr_xr.output.zarr.records import Index, Record
    from s2sr_xr.output.zarr.target import Target

__all__ = ["feeding", "write"]


@contextmanager
def feeding(ds: xr.Dataset) -> Iterator[None]:
    """Let Dask's threads be as many as keep the device busy that makes a result.

    Only where a GPU asks for more than there are cores, and nobody has set a number; a
    cluster has its own.
    """
    gpu = on_gpu(origin.job.task for origin in origins(ds))
    count = thread_team.threads("gpu" if gpu else "cpu")
    said = dask.config.get("num_workers", None) or dask.config.get("pool", None)
    enough = said or count <= thread_team.cores()
    with dask.config.set({} if enough else {"num_workers": count}):
        yield


def write(
    ds: xr.Dataset,
    target: Target,
    blocks: Blocks,
    times: int | None,
    *,
    todo: Collection[Index],
    lock: bool = False,
) -> Delayed:
    """Return the work that writes a lazy result, one task a block, and then finishes.

    The task of a block reads, computes and writes it, so that it counts in memory from
    the first pixel to the last. So this graph does not reuse the one of the result,
    where tasks end with pixels: jobs that make variables are run in the same blocks;
    other variables are cut from their chunks. `todo` names the blocks to write. Each
    takes the store's `lock` by itself, unless whoever computes holds it.
    """
    graphs: list[Graph] = []
    made: dict[str, tuple[int, str]] = {}
    for origin in origins(ds):
        if (origin.job.blocks, origin.job.times) == (blocks, times):
            made |= {name: (len(graphs), v) for name, v in origin.names.items()}
            graphs.append(Graph(origin.job))
    others = {
        str(n): Chunked(str(n), v.variable.chunk().data, 1, 1.0)
        for n, v in ds.data_vars.items()
        if n not in made
    }
    token = tokenize(
        [g.token for g in graphs], {n: c.array.name for n, c in others.items()}, target
    )
    name, end = f"s2sr-write-{token}", f"s2sr-finish-{token}"
    tasks: dict[Any, Any] = {}
    ends = []
    for t, (i, j, box) in product(range(1 if times is None else times), blocks):
        if (t, i, j) not in todo:
            continue
        runs = []
        for graph in graphs:
            args, strips = graph.inputs(t, box, graph.job.task, "write")
            runs.append(List(*args))
            tasks |= strips
        parts = [p for c in others.values() for p in c.parts(t, box)]
        chunks = List(*(TaskRef(p.key) for p in parts))
        key = (name, t, i, j)
        pixels = (made, List(*runs), parts, chunks)
        tasks[key] = Task(key, _write_block, target, (t, i, j), lock, *pixels)
        ends.append(TaskRef(key))
    tasks[end] = Task(end, _finish, target, lock, List(*ends))
    sources = [s for g in graphs for s in g.sources]
    sources += [c.array for c in others.values()]
    hlg = HighLevelGraph.from_collections(end, tasks, sources)
    return Delayed(end, hlg, layer=end)


def _write_block(
    target: Target,
    index: Index,
    lock: bool,  # noqa: FBT001 - Dask passes by position
    made: Mapping[str, tuple[int, str]],
    runs: Sequence[Sequence[Any]],
    *chunks: Any,  # noqa: ANN401 - parts, and the chunks that they are cut from
) -> Record:
    compute = partial(_compute, made, runs, *chunks)
    tasks = [task for task, *_ in runs]
    return write_block(target, index, compute, tasks=tasks, lock=lock)


def _compute(
    made: Mapping[str, tuple[int, str]],
    runs: Sequence[Sequence[Any]],
    parts: Sequence[Part],
    chunks: Sequence[NDArray[Any]],
    box: Box,
) -> dict[str, NDArray[Any]]:
    """Return a block: what jobs make of it, and what is cut from chunks."""
    results = [run_block(*args) for args in runs]
    values = {name: results[n][variable] for name, (n, variable) in made.items()}
    for part, chunk in zip(parts, chunks, strict=True):
        cut = part.cut(chunk)
        if part.band not in values:
            values[part.band] = np.empty(box.shape, cut.dtype)
        values[part.band][part.window.slices_in(box)] = cut
    return values


def _finish(target: Target, lock: bool, records: Sequence[Record]) -> int:  # noqa: FBT001 - Dask passes by position
    with locked(target, lock=lock):
        target.finish()
    return len(records)
