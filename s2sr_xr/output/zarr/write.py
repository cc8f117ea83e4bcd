"""From pixels to a store, block by block: the one way, whoever drives it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.engine.block import do_block, turn
from s2sr_xr.errors import GridError
from s2sr_xr.readers.fetch.source import source_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import xarray as xr
    from numpy.typing import NDArray

    from s2sr_xr.core.tiling import Box
    from s2sr_xr.engine.dask_chunks import Part
    from s2sr_xr.engine.job import BlockTask, Job
    from s2sr_xr.output.zarr.records import Index, Record
    from s2sr_xr.output.zarr.target import Target
    from s2sr_xr.readers.fetch.source_protocol import Source

__all__ = [
    "StoreWork",
    "locked",
    "sources_of",
    "write_block",
    "write_from_chunks",
    "write_loaded",
]


def write_block(
    target: Target,
    index: Index,
    compute: Callable[[Box], Mapping[str, NDArray[Any]]],
    *,
    tasks: Sequence[BlockTask] = (),
    lock: bool = False,
) -> Record:
    """Compute one block, write it, and record it.

    Parameters
    ----------
    target
        The store.
    index
        Time, block row, block column.
    compute
        Returns every variable of a block, by its rows and columns.
    tasks
        The networks that `compute` runs: where they feed a GPU, the block waits until
        it fits in memory.
    lock
        Whether the block takes the store's lock itself; else whoever drives holds it.

    Raises
    ------
    ReadError, StoreError
        A pixel could not be read, or the block not written.
    RadiometryError, ModelError
        The pixels cannot be reflectance, or the network cannot run.
    """
    box = target.box(index)
    with locked(target, lock=lock), turn(tasks, box):
        return target.write(index, compute(box))


def locked(target: Target, *, lock: bool) -> AbstractContextManager[None]:
    """Hold the lock of a store during the body, if asked to."""
    return target.lock() if lock else nullcontext()


def write_from_chunks(
    target: Target,
    index: Index,
    lock: bool,  # noqa: FBT001 - Dask passes by position
    made: Mapping[str, tuple[int, str]],
    runs: Sequence[Sequence[Any]],
    parts: Sequence[Part],
    chunks: Sequence[NDArray[Any]],
) -> Record:
    """Write a block inside a Dask task.

    `made` says which of `runs` makes a variable, and what it is called there; a run is
    a function, a `BlockTask`, and more that the function takes. Other variables are cut
    as `parts` from `chunks`.
    """

    def compute(box: Box) -> dict[str, NDArray[Any]]:
        values: dict[str, NDArray[Any]] = {}
        for n, (run, *args) in enumerate(runs):
            own = run(*args)
            values |= {name: own[v] for name, (of, v) in made.items() if of == n}
        for part, chunk in zip(parts, chunks, strict=True):
            cut = part.cut(chunk)
            if part.band not in values:
                values[part.band] = np.empty(box.shape, cut.dtype)
            values[part.band][part.window.slices_in(box)] = cut
        return values

    tasks = [task for _, task, *_ in runs]
    return write_block(target, index, compute, tasks=tasks, lock=lock)


def write_loaded(
    ds: xr.Dataset, target: Target, todo: Iterable[Index], *, lock: bool = False
) -> None:
    """Write the blocks `todo` of a result without Dask, and finish the store."""
    with locked(target, lock=lock):
        for index in todo:
            lead = (index[0],) if target.timed else ()

            def cut(box: Box, lead: tuple[int, ...] = lead) -> dict[str, NDArray[Any]]:
                # Through the variable: a lazily indexed one reads this block only.
                where = (*lead, *box.slices)
                parts = {str(n): v.variable[where] for n, v in ds.data_vars.items()}
                return {name: part.to_numpy() for name, part in parts.items()}

            write_block(target, index, cut)
        target.finish()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StoreWork:
    """What the blocks of one store have in common: plain facts, some kilobytes."""

    item: str
    """Whose it is."""

    task: BlockTask
    """What each block computes."""

    pixels: Mapping[str, Source]
    """Where the pixels of each band are read."""

    target: Target
    """Where blocks go."""

    def __repr__(self) -> str:
        # Dask logs the arguments of failed tasks, and hrefs may be signed.
        return f"StoreWork({self.item})"

    def do(self, index: Index) -> Record:
        """Write one block, unless that has been done; return its record."""
        # A scheduler runs a block again when its worker dies before the answer came.
        record = self.target.written(index)
        if record is not None:
            return record

        def compute(box: Box) -> dict[str, NDArray[Any]]:
            return do_block(self.task, box, index[0], self.pixels)

        return write_block(self.target, index, compute, tasks=[self.task])


def sources_of(job: Job) -> dict[str, Source]:
    """Return where each band of a job is read: blocks read their own windows.

    Raises
    ------
    GridError
        A band is not as one of our readers gives it.
    """
    found: dict[str, Any] = {
        band: source_of(plane.variable.data) if plane.repeat == 1 else None
        for band, plane in job.planes.items()
    }
    for band, source in found.items():
        if source is None:
            raise GridError(
                f"{band} is not as a reader of this library gives it, so that a block "
                "cannot read its own window. Use obj.s2sr.to_zarr.",
                band=band,
            )
    return found
