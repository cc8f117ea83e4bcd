"""The work that writes a result to a store, one task a block."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from s2sr_xr.engine.block import turn
from s2sr_xr.engine.dask_chunks import Chunked, Part
from s2sr_xr.engine.dask_graph import Graph, call_of, run_block

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractContextManager

    import xarray as xr
    from numpy.typing import NDArray

    from s2sr_xr.core.tiling import Box
    from s2sr_xr.engine.job import Blocks, Job
    from s2sr_xr.output.zarr import Index, Record, Target

__all__ = ["write"]


def write(
    ds: xr.Dataset,
    target: Target,
    blocks: Blocks,
    times: int | None,
    *,
    todo: Collection[Index] | None = None,
    leased: bool = False,
) -> Delayed:
    """Return the work that writes a lazy result, one task a block, and then finishes.

    Variables that our jobs make are computed by the task that writes them; others are
    cut from their chunks. `todo` names the blocks to write, None all of them. Each
    block holds the store's lease by itself, unless it is `leased` by whoever computes.
    """
    jobs, made = _jobs(ds, blocks, times)
    graphs = [Graph(job) for job in jobs]
    steps = 1 if times is None else times
    others = {
        str(n): Chunked(str(n), v.variable.chunk().data, 1, 1.0)
        for n, v in ds.data_vars.items()
        if n not in made
    }
    token = tokenize(
        [g.token for g in graphs], {n: c.array.name for n, c in others.items()}, target
    )
    name = f"s2sr-write-{token}"
    tasks: dict[Any, Any] = {}
    for t, (i, j, box) in product(range(steps), blocks):
        if todo is not None and (t, i, j) not in todo:
            continue
        runs = []
        for graph in graphs:
            args, strips = graph.inputs(t, box, graph.job.task, "write")
            runs.append(List(*args))
            tasks |= strips
        parts = [p for c in others.values() for p in c.parts(t, box)]
        chunks = List(*(TaskRef(p.key) for p in parts))
        key = (name, t, i, j)
        place = _Place(target, (t, i, j), box, leased=leased)
        tasks[key] = Task(key, _write_block, place, made, List(*runs), parts, chunks)
    end = f"s2sr-finish-{token}"
    tasks[end] = Task(
        end, _finish, target, leased, List(*map(TaskRef, _blocks_of(tasks, name)))
    )
    sources = [c.array for g in graphs for c in g.chunked.values()]
    sources += [c.array for c in others.values()]
    hlg = HighLevelGraph.from_collections(end, tasks, sources)
    return Delayed(end, hlg, layer=end)


def _jobs(
    ds: xr.Dataset, blocks: Blocks, times: int | None
) -> tuple[list[Job], dict[str, tuple[int, str]]]:
    """Return the calls behind a result, each once, and which makes which variable."""
    calls: dict[str, Job] = {}
    found: dict[str, tuple[str, str]] = {}
    for name, array in ds.data_vars.items():
        call, variable = (array.chunks and call_of(array.data)) or (None, "")
        if call is not None and (call.job.blocks, call.job.times) == (blocks, times):
            calls[call.token] = call.job
            found[str(name)] = (call.token, variable)
    wanted = {t: {v for token, v in found.values() if token == t} for t in calls}
    jobs = [job.only(wanted[token]) for token, job in calls.items()]
    index = {token: n for n, token in enumerate(calls)}
    return jobs, {name: (index[token], v) for name, (token, v) in found.items()}


def _blocks_of(tasks: Mapping[Any, Any], name: str) -> list[Any]:
    return [key for key in tasks if key[0] == name]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one block goes."""

    target: Target
    """The store."""

    index: Index
    """Time, block row, block column."""

    box: Box
    """Its pixels."""

    leased: bool
    """Whether whoever computes holds the store's lease."""


def _lease(target: Target, *, leased: bool) -> AbstractContextManager[None]:
    return nullcontext() if leased else target.lease()


def _write_block(
    place: _Place,
    made: Mapping[str, tuple[int, str]],
    runs: Sequence[Sequence[Any]],
    parts: Sequence[Part],
    chunks: Sequence[NDArray[Any]],
) -> Record:
    tasks = [task for task, *_ in runs]
    with _lease(place.target, leased=place.leased), turn(tasks, place.box):
        results = [run_block(*args) for args in runs]
        values = {name: results[n][variable] for name, (n, variable) in made.items()}
        for part, chunk in zip(parts, chunks, strict=True):
            cut = part.cut(chunk)
            if part.band not in values:
                values[part.band] = np.empty(place.box.shape, cut.dtype)
            whole = values[part.band]
            whole[part.window.slices_in(place.box)] = cut
        return place.target.write(place.index, values)


def _finish(target: Target, leased: bool, records: Sequence[Record]) -> int:  # noqa: FBT001 - Dask passes by position
    with _lease(target, leased=leased):
        target.finish()
    return len(records)
