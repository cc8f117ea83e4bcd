"""From a result to a store: whole blocks, one task each."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from s2sr_xr.engine.fingerprint import UNREPEATABLE, token_of
from s2sr_xr.engine.job import BLOCK, Blocks
from s2sr_xr.errors import GridError, ResumeMismatchError, StoreError
from s2sr_xr.output.zarr import create, resume_or_create
from s2sr_xr.output.zarr.write import write_loaded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import xarray as xr
    from dask.delayed import Delayed
    from zarr.abc.store import Store

    from s2sr_xr.output.zarr import Layout, Target

__all__ = ["blocks_of", "to_zarr"]

_LOG = logging.getLogger(__name__)


def to_zarr(
    ds: xr.Dataset,
    store: str | Path | Store,
    *,
    mode: Literal["w-", "w"] = "w-",
    resume: bool = False,
    layout: Layout = "plain",
    compute: bool = True,
) -> Delayed | None:
    """Write a result to a Zarr store, block by block, and mark it complete at the end.

    Bands are packed to uint16 (``scale_factor=1e-4``, ``add_offset=-0.1``, 0 where
    nothing was recorded); other float variables stay float32. A plain
    `xarray.open_zarr` finds values, coordinates and CRS; `s2sr_xr.open_result` also
    insists on completeness.

    Parameters
    ----------
    ds
        A result of this library, or anything made from it on the same grid.
    store
        A path, a URL, or a Zarr store.
    mode
        "w-" refuses a store that exists; "w" replaces one that this library made.
    resume
        Whether to resume a store that an equal call began and did not finish:
        blocks that are written are kept, torn ones and the rest are written. Where
        nothing is there it is created; what is complete is left as it is, with a line
        in the log. Equal are models, weights, precision, radiometry, sources, your own
        arithmetic, grid, packing, blocks and layout; where and how the work runs may
        differ.
    layout
        "plain": chunks of up to 1098 px, a file each. "sharded": a file a block and
        variable, with such chunks inside: fewer files, for object stores.
    compute
        Whether to write now; False returns the work as a Delayed.

    Raises
    ------
    StoreError
        The store exists, another run writes it, or it cannot be written.
    ResumeMismatchError
        The store to resume was begun by another call; the message names what differs.
        Or it cannot be known: pixels of a variable come from a Dask array whose name is
        drawn anew each time, or from a file behind xarray's lazy indexing.
    GridError
        `ds` has no y and x, or variables of other dims.
    """
    _check(ds)
    if resume and mode == "w":
        raise StoreError(
            'resume=True keeps what is written, mode="w" removes it; pass one of them'
        )
    blocks, token = blocks_of(ds), token_of(ds)
    if resume:
        _refuse_unrepeatable(token)
        target = resume_or_create(
            store, ds, block=blocks.size, layout=layout, token=token
        )
    else:
        target = create(
            store, ds, block=blocks.size, layout=layout, mode=mode, token=token
        )
    if not compute:
        return _work(ds, target, blocks, resume=resume)
    with target.lock():
        todo = target.missing() if resume else [*target.indices()]
        if not todo and target.is_complete:
            _LOG.info("%s is complete; nothing is left to write", target.store)
        elif _is_lazy(ds):
            from s2sr_xr.output.zarr.dask_write import feeding, write

            work = write(ds, target, blocks, ds.sizes.get("time"), todo={*todo})
            with feeding(ds):
                work.compute()
        else:
            write_loaded(ds, target, todo)
    return None


def _work(ds: xr.Dataset, target: Target, blocks: Blocks, *, resume: bool) -> Delayed:
    """Return the work to be done later; it takes the lock when it runs."""
    todo = target.missing() if resume else [*target.indices()]
    if _is_lazy(ds):
        from s2sr_xr.output.zarr.dask_write import write

        times = ds.sizes.get("time")
        return write(ds, target, blocks, times, todo={*todo}, lock=True)
    from dask.delayed import delayed

    return delayed(write_loaded)(ds, target, todo, lock=True)


def _is_lazy(ds: xr.Dataset) -> bool:
    return any(v.chunks is not None for v in ds.data_vars.values())


def _check(ds: xr.Dataset) -> None:
    dims = ("time", "y", "x") if "time" in ds.dims else ("y", "x")
    if not ds.data_vars:
        raise StoreError("There is nothing to write: the Dataset has no variables.")
    for name, array in ds.data_vars.items():
        if array.dims != dims:
            raise GridError(
                f"{name} has dims {array.dims}; a store holds variables of {dims}. "
                "Drop it, or transpose it."
            )


def _refuse_unrepeatable(token: Mapping[str, dict[str, str]]) -> None:
    doubts = token.get(UNREPEATABLE, {})
    if doubts:
        name, why = next(iter(doubts.items()))
        raise ResumeMismatchError(
            f"{name} cannot be resumed, since it may not be the same: "
            f"{why}. Give what it is made from a name of its own "
            "(da.from_array(..., name=...), dask.delayed(..., pure=True)), or write "
            "without resume=True."
        )


def blocks_of(ds: xr.Dataset) -> Blocks:
    """Return the blocks of the job behind a result, or the usual ones."""
    shape = (ds.sizes["y"], ds.sizes["x"])
    if _is_lazy(ds):
        from s2sr_xr.engine.lazy import origins

        if found := origins(ds):
            return found[0].job.blocks
    return Blocks(shape, (min(BLOCK, shape[0]), min(BLOCK, shape[1])))
