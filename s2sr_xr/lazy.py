"""Blocks over Dask arrays: one task a block, nothing read before it runs.

A block of an unmodified tree of our readers reads its own window. A block of any other
Dask array depends on the source chunks that it meets: on those it mostly covers as they
are, and on one copied strip of each neighbour, all bands at once. No ``map_overlap``,
no rechunk.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate, product
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from s2sr_xr import lanes
from s2sr_xr.block import do_block, on_gpu, turn
from s2sr_xr.errors import ChunkError
from s2sr_xr.job import Blocks, Job, dtype_of, sample
from s2sr_xr.readers.source import source_of
from s2sr_xr.tiling import Box, Span

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import xarray as xr
    from numpy.typing import NDArray

    from s2sr_xr.block import BlockTask, Pixels
    from s2sr_xr.store import Index, Record, Target

__all__ = ["Call", "arrays", "call_behind", "call_of", "feeding", "run_block", "write"]


@dataclass(slots=True)
class _Gathered:
    """The native pixels of a band, put together from parts of Dask chunks."""

    repeat: int
    band: str
    parts: list[tuple[Box, NDArray[Any]]] = field(default_factory=list)

    def read(self, time: int, rows: slice, cols: slice) -> NDArray[np.float32]:  # noqa: ARG002
        k = self.repeat
        window = Box(Span(rows.start, rows.stop), Span(cols.start, cols.stop)).scale(k)
        out = np.full(window.shape, np.nan, np.float32)
        for box, values in self.parts:
            meet = box.meet(window)
            if meet is not None:
                out[meet.slices_in(window)] = values[meet.slices_in(box)]
        return sample(out, k, self.band)


@dataclass(frozen=True, slots=True)
class _Part:
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


def _cut(parts: Sequence[_Part], chunks: Sequence[NDArray[Any]]) -> list[Any]:
    """Return the strips of one neighbour, all bands at once."""
    # A copy, or the strip would keep its whole chunk alive.
    return [p.cut(c).copy() for p, c in zip(parts, chunks, strict=True)]


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What one block needs beside its Dask chunks, and where these go."""

    pixels: Mapping[str, Pixels]
    """Bands that the task reads itself."""

    repeats: Mapping[str, int]
    """Bands that are put together from chunks, and how often a pixel is repeated."""

    whole: tuple[_Part, ...]
    """Parts of the chunks that arrive whole."""

    strips: tuple[tuple[_Part, ...], ...]
    """Parts that arrive cut, a group a neighbour."""


def run_block(
    task: BlockTask,
    box: Box,
    inputs: _Inputs,
    chunks: Sequence[NDArray[Any]],
    strips: Sequence[Sequence[NDArray[Any]]],
) -> dict[str, NDArray[Any]]:
    """Compute a block inside a Dask task."""
    gathered = {b: _Gathered(k, b) for b, k in inputs.repeats.items()}
    for part, chunk in zip(inputs.whole, chunks, strict=True):
        gathered[part.band].parts.append((part.window, part.cut(chunk)))
    for group, arrived in zip(inputs.strips, strips, strict=True):
        for part, strip in zip(group, arrived, strict=True):
            gathered[part.band].parts.append((part.window, strip))
    with lanes.TEAM.at_work():
        return do_block(task, box, 0, {**inputs.pixels, **gathered})


class Graph:
    """Makes the tasks of one job, block by block."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pixels: dict[str, Any] = {}
        self.chunked: dict[str, _Chunked] = {}
        for band, plane in job.planes.items():
            # A band that is not lazy beside one that is becomes a single chunk.
            whole = plane.variable.chunks is None
            array = (plane.variable.chunk() if whole else plane.variable).data
            source = source_of(array) if plane.repeat == 1 else None
            if source is not None:
                self.pixels[band] = source
            else:
                self.chunked[band] = _Chunked(band, array, plane.repeat, plane.grid.res)
        names = {b: c.array.name for b, c in self.chunked.items()}
        self.token: str = tokenize(job.task, job.blocks, names, self.pixels)

    def inputs(
        self, time: int, box: Box, task: BlockTask, stem: str
    ) -> tuple[list[Any], dict[Any, Any]]:
        """Return the arguments of `run_block` for a block, and the strips it needs."""
        windows = task.reads(box)
        wanted = [b for b in self.chunked if b in windows]
        parts = [p for b in wanted for p in self.chunked[b].parts(time, windows[b])]
        whole: list[_Part] = []
        groups: list[tuple[_Part, ...]] = []
        strips: dict[Any, Any] = {}
        for group in _by_ground(parts):
            if max(p.share for p in group) >= 0.5:
                whole += group
                continue
            key = (f"s2sr-strip-{self.token}", stem, time, *_corner(box), len(groups))
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


def _corner(box: Box) -> tuple[int, int]:
    return box.rows.start, box.cols.start


class _Chunked:
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

    def parts(self, time: int, native: Box) -> Iterator[_Part]:
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
            yield _Part(self.band, key, local, chunk, part, ground, steps)


def _meeting(edges: list[int], span: Span) -> Iterator[tuple[int, Span]]:
    first = bisect_right(edges, span.start) - 1
    last = bisect_left(edges, span.stop)
    for n in range(first, last):
        if edges[n] < edges[n + 1]:
            yield n, Span(edges[n], edges[n + 1])


def _by_ground(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Return the parts together whose chunks cover the same ground, of all bands."""
    groups = defaultdict(list)
    for part in parts:
        groups[part.ground].append(part)
    return list(groups.values())


class ItemLayer(MaterializedLayer):  # type: ignore[misc]
    """Hands out one variable of the blocks, and knows the call that it comes from."""

    def __init__(self, tasks: Mapping[Any, Any], call: Call, variable: str) -> None:
        super().__init__(tasks)
        self.call, self.variable = call, variable


@dataclass(frozen=True, slots=True)
class Call:
    """One call that made a lazy result: everything it makes, and its name."""

    job: Job
    """All of it, the bands that are handed on and those that networks make."""

    token: str
    """Equal for equal calls on equal data."""


def call_of(array: Any) -> tuple[Call, str] | None:  # noqa: ANN401
    """Return the call and the variable that an unmodified lazy result is, or None."""
    if not isinstance(array, da.Array):
        return None
    layer = array.dask.layers.get(array.name)
    return (layer.call, layer.variable) if isinstance(layer, ItemLayer) else None


def call_behind(ds: xr.Dataset) -> tuple[Call, set[str]] | None:
    """Return the one call that made all of a result, and which variables, or None."""
    found = [call_of(v.data) if v.chunks else None for v in ds.data_vars.values()]
    made = [f for f in found if f is not None]
    if len(made) < len(found) or len({call.token for call, _ in made}) != 1:
        return None
    return made[0][0], {variable for _, variable in made}


@contextmanager
def feeding(ds: xr.Dataset) -> Iterator[None]:
    """Let Dask's threads be as many as keep the device busy that makes a result.

    Only where a GPU asks for more than there are cores, and nobody has set a number; a
    cluster has its own.
    """
    found = [call_of(v.data) for v in ds.data_vars.values() if v.chunks]
    gpu = on_gpu(f[0].job.task for f in found if f is not None)
    count = lanes.threads("gpu" if gpu else "cpu")
    said = dask.config.get("num_workers", None) or dask.config.get("pool", None)
    enough = said or count <= lanes.cores()
    with dask.config.set({} if enough else {"num_workers": count}):
        yield


def arrays(job: Job) -> dict[str, da.Array]:
    """Return the variables a job makes, as Dask arrays with one task a block.

    Bands that are only handed on are blocks of their own: looking at one runs no
    network.

    Raises
    ------
    ChunkError
        A source array has chunks of unknown size.
    """
    call = Call(job, Graph(job).token)
    native, made = set(job.task.native), set(job.task.names) - set(job.task.native)
    parts = [job.only(names) for names in (native, made) if names]
    return {n: a for part in parts for n, a in _arrays(part, call).items()}


def _arrays(job: Job, call: Call) -> dict[str, da.Array]:
    graph = Graph(job)
    name, tasks = graph.layer()
    sources = [c.array for c in graph.chunked.values()]
    base = HighLevelGraph.from_collections(name, tasks, sources)
    lead = () if job.times is None else ((1,) * job.times,)
    out = {}
    for variable in job.task.names:
        own = f"s2sr-{variable}-{graph.token}"
        items = {}
        for t, (i, j, _) in product(range(job.steps), job.blocks):
            key = (own, *(t,) * len(lead), i, j)
            items[key] = Task(key, _item, TaskRef((name, t, i, j)), variable, len(lead))
        layers = {**base.layers, own: ItemLayer(items, call, variable)}
        hlg = HighLevelGraph(layers, {**base.dependencies, own: {name}})
        meta = np.empty((0,) * (2 + len(lead)), dtype_of(variable))
        out[variable] = da.Array(hlg, own, lead + job.blocks.chunks, meta=meta)
    return out


def _item(block: Mapping[str, NDArray[Any]], name: str, lead: int) -> NDArray[Any]:
    values = block[name]
    return values.reshape((1,) * lead + values.shape)


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
        str(n): _Chunked(str(n), v.variable.chunk().data, 1, 1.0)
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
    parts: Sequence[_Part],
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
