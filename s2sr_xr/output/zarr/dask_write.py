"""The Dask graph that writes a lazy result, one task a block."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

import dask
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from s2sr_xr.engine import thread_team
from s2sr_xr.engine.block import on_gpu
from s2sr_xr.engine.dask_chunks import Chunked
from s2sr_xr.engine.dask_graph import Graph, run_block
from s2sr_xr.engine.lazy import origins
from s2sr_xr.output.zarr.write import locked, write_from_chunks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import xarray as xr

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
            runs.append(List(run_block, *args))
            tasks |= strips
        parts = [p for c in others.values() for p in c.parts(t, box)]
        chunks = List(*(TaskRef(p.key) for p in parts))
        key = (name, t, i, j)
        pixels = (made, List(*runs), parts, chunks)
        tasks[key] = Task(key, write_from_chunks, target, (t, i, j), lock, *pixels)
        ends.append(TaskRef(key))
    tasks[end] = Task(end, _finish, target, lock, List(*ends))
    sources = [s for g in graphs for s in g.sources]
    sources += [c.array for c in others.values()]
    hlg = HighLevelGraph.from_collections(end, tasks, sources)
    return Delayed(end, hlg, layer=end)


def _finish(target: Target, lock: bool, records: Sequence[Record]) -> int:  # noqa: FBT001 - Dask passes by position
    with locked(target, lock=lock):
        target.finish()
    return len(records)
