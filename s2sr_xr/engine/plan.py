"""What a lazy result will cost, known before anything is read or computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2sr_xr.engine import thread_team
from s2sr_xr.engine.block import on_gpu
from s2sr_xr.engine.job import dtype_of
from s2sr_xr.errors import GridError, ModelError
from s2sr_xr.readers.fetch.cache import budget
from s2sr_xr.readers.fetch.source import source_of

if TYPE_CHECKING:
    import xarray as xr

    from s2sr_xr.core.tiling import Box
    from s2sr_xr.engine.job import Job
    from s2sr_xr.engine.model_run import Pass
    from s2sr_xr.models.cost import Cost

__all__ = ["Plan", "plan"]

PROCESS = 600 << 20
"""Bytes of a process that has loaded torch, GDAL, dask and zarr, and done nothing."""

NETWORK = 2
"""How much more than its tensors a network takes: kernels reorder what they get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the work takes. Sizes are before compression."""

    pixels: int
    """Output pixels, all times, of one variable."""

    variables: int
    """Bands and flags of the result."""

    blocks: int
    """Blocks, all times."""

    tasks: int
    """Tasks of a Dask graph that writes the result."""

    flops: int
    """Operations of the networks, halos and the waste at the edges included."""

    useful: int
    """Operations that the written pixels alone would take, without any halo."""

    bytes_in: int
    """Pixels that blocks read, 2 bytes each, halos included."""

    bytes_out: int
    """Pixels that are written: 2 bytes a band, 1 byte of flags."""

    memory: int
    """Bytes that one worker process holds at most, with `threads` blocks in work, and
    the decoded blocks of images that it keeps. What lies on a GPU is not counted; more
    threads that feed one wait for room in half of the memory."""

    threads: int
    """Blocks that a worker computes at once."""

    def __str__(self) -> str:
        """Return it as a table for people."""
        share = self.useful / self.flops if self.flops else 1.0
        rows = {
            "output": f"{self.variables} x {self.pixels / 1e6:,.1f} Mpx",
            "blocks": f"{self.blocks:,} ({self.tasks:,} tasks)",
            "operations": f"{self.flops / 1e12:,.2f} TFLOP, {share:.0%} of them useful",
            "reads": f"{self.bytes_in / 2**20:,.0f} MiB, uncompressed, with halos",
            "writes": f"{self.bytes_out / 2**20:,.0f} MiB, uncompressed",
            "memory": f"{self.memory / 2**30:.2f} GiB a worker of {self.threads}"
            f" thread{'s' if self.threads > 1 else ''}",
        }
        return "\n".join(f"{name:<11} {text}" for name, text in rows.items())


def plan(ds: xr.Dataset, *, threads: int | None = None) -> Plan:
    """Return what computing and writing a lazy result takes, before anything runs.

    Parameters
    ----------
    ds
        A lazy result of `upsample`, `superresolve` or `register`, or some of its
        variables.
    threads
        Blocks that one worker process computes at once; None: the processors that this
        process may use, as Dask's threads; three at least where they feed a GPU.

    Returns
    -------
    Plan
        Operations, bytes, tasks, and the most memory that a worker takes.

    Raises
    ------
    GridError
        `ds` is not a lazy result of this library; the message says how to get one.
    ModelError
        `threads` is not a count.
    """
    if threads is not None and not (isinstance(threads, int) and threads >= 1):
        raise ModelError(f"threads counts blocks in work, 1 or more; got {threads!r}.")
    job = _job(ds)
    costs = [_cost(p) for p in job.task.passes]
    flops = useful = bytes_in = 0
    most = 0
    for _, _, box in job.blocks:
        for p, cost in zip(job.task.passes, costs, strict=True):
            tiles = p.tiles(box)
            flops += cost.flops * _count(tiles, p.tile)
            cells = box.group(p.spec.output.per_cell)
            useful += cost.useful * cells.shape[0] * cells.shape[1]
        read = sum(w.shape[0] * w.shape[1] for w in job.task.reads(box).values())
        bytes_in += 2 * read
        most = max(most, job.task.held(box))
    rows, cols = job.blocks.shape
    blocks = sum(1 for _ in job.blocks)
    per_pixel = sum(1 if dtype_of(n).__name__ == "uint8" else 2 for n in job.task.names)
    weights = sum(c.weights for c in costs)
    count, blocks_held = _in_work(job, most, costs, threads)
    return Plan(
        pixels=rows * cols * job.steps,
        variables=len(job.task.names),
        blocks=blocks * job.steps,
        tasks=blocks * job.steps + 1,
        flops=flops * job.steps,
        useful=useful * job.steps,
        bytes_in=bytes_in * job.steps,
        bytes_out=per_pixel * rows * cols * job.steps,
        memory=round(PROCESS + 2 * weights + _decoded(job) + blocks_held),
        threads=count,
    )


def _job(ds: xr.Dataset) -> Job:
    """Return the one job behind a result, for the variables that it still has."""
    from s2sr_xr.engine.lazy import job_of

    job = job_of(ds)
    if job is None:
        raise GridError(
            "A plan is of a lazy result, as upsample(), superresolve() or register() "
            "give it for Dask-backed data and before any arithmetic: open with "
            "chunks=2196, and pass what they return."
        )
    return job


def _cost(p: Pass) -> Cost:
    from s2sr_xr.models.cost import cost_of
    from s2sr_xr.models.networks.layers import lower
    from s2sr_xr.models.registry import load_model

    network = load_model(p.predictor.name)
    if p.predictor.precision == "bf16":
        lower(network)
    return cost_of(network, p.spec, p.tile)


def _count(tiles: Box, tile: tuple[int, int]) -> int:
    rows, cols = (n // t for n, t in zip(tiles.shape, tile, strict=True))
    return rows * cols


def _in_work(
    job: Job, most: int, costs: list[Cost], threads: int | None
) -> tuple[int, float]:
    """Return how many blocks are in work at once, and the bytes that all of them take.

    `most` are those of the largest, without its network.
    """
    gpu = on_gpu([job.task])
    count = thread_team.threads("gpu" if gpu else "cpu") if threads is None else threads
    if gpu:
        return count, min(count * most, max(most, thread_team.allowance()))
    tiles = max((c.activations for c in costs), default=0)
    return count, count * (most + NETWORK * tiles)


def _decoded(job: Job) -> int:
    """Return the bytes of decoded blocks of our readers that are kept for others."""
    sources = [source_of(p.variable) for p in job.planes.values()]
    return min(budget(), sum(2 * math.prod(s.shape) for s in sources if s is not None))
