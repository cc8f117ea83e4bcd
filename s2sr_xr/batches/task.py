"""One block as a unit of its own: read, predict, write, record. It may run twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from s2sr_xr.engine.block import do_block, turn
from s2sr_xr.errors import GridError
from s2sr_xr.readers.fetch.source import source_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import xarray as xr

    from s2sr_xr.output.zarr import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from s2sr_xr.engine.block import BlockTask
    from s2sr_xr.engine.job import Job
    from s2sr_xr.output.zarr import Index, Target
    from s2sr_xr.readers.fetch.source_protocol import Source

__all__ = ["Done", "Piece", "Result", "Rules", "Work", "do", "job_of", "sources_of"]


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
    from s2sr_xr.engine.dask_graph import call_behind

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


@dataclass(frozen=True, slots=True)
class Result:
    """One store to be made."""

    id: str
    """What it is called in reports."""

    store: str
    """Where it goes."""

    ds: xr.Dataset
    """The lazy result."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One item of a job."""

    id: str
    """What it is called in reports."""

    make: Callable[[], Iterable[Result]]
    """Opens it, and returns what is to be made of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a job deals with what is there, and with what fails."""

    resume: bool = True
    """Whether to go on with stores that are there; False refuses them."""

    retries: int = 2
    """How often a block that may succeed is tried again."""

    on_error: Literal["continue", "raise"] = "continue"
    """Whether other items go on when one fails."""

    layout: Layout = "plain"
    """How blocks lie in a store."""
