"""One block as a unit of its own: read, predict, write, record. It may run twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2sr_xr.block import do_block, turn
from s2sr_xr.errors import GridError
from s2sr_xr.readers.source import source_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from s2sr_xr.block import BlockTask
    from s2sr_xr.job import Job
    from s2sr_xr.readers.source import Source
    from s2sr_xr.store import Index, Target

__all__ = ["Done", "Work", "do", "job_of", "sources_of"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Work:
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
        return f"Work({self.item})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A block that lies in its store."""

    state: str
    """"written" or "empty"."""

    stored: int
    """Bytes on disk."""


def do(work: Work, index: Index) -> Done:
    """Compute one block and write it, with its record, unless that has been done.

    Raises
    ------
    ReadError, StoreError
        A pixel could not be read, or the block not written.
    RadiometryError, ModelError
        The pixels cannot be reflectance, or the network not run.
    """
    # A scheduler runs a block again when its worker dies before the answer is fetched.
    record = work.target.written(index)
    if record is None:
        box = work.target.box(index)
        with turn([work.task], box):
            arrays = do_block(work.task, box, index[0], work.pixels)
            record = work.target.write(index, arrays)
    return Done(state=record.state, stored=sum(record.sizes.values()))


def job_of(ds: xr.Dataset) -> Job:
    """Return the one call that makes a lazy result."""
    from s2sr_xr.lazy import call_behind

    found = call_behind(ds)
    assert found is not None, "a result as the call returned it"
    return found[0].job


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
