"""From a result to a store: whole blocks, one task each."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Literal

from s2sr_xr.errors import GridError, StoreError
from s2sr_xr.job import BLOCK, Blocks
from s2sr_xr.store import create

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr
    from dask.delayed import Delayed
    from zarr.abc.store import Store

    from s2sr_xr.store import Target

__all__ = ["to_zarr"]


def to_zarr(
    ds: xr.Dataset,
    store: str | Path | Store,
    *,
    mode: Literal["w-", "w"] = "w-",
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
        A path, or a Zarr store.
    mode
        "w-" refuses a store that exists; "w" replaces one that this library made.
    compute
        Whether to write now; False returns the work as a Delayed.

    Raises
    ------
    StoreError
        The store exists, or cannot be written.
    GridError
        `ds` has no y and x, or variables of other dims.
    """
    dims = ("time", "y", "x") if "time" in ds.dims else ("y", "x")
    if not ds.data_vars:
        raise StoreError("There is nothing to write: the Dataset has no variables.")
    for name, array in ds.data_vars.items():
        if array.dims != dims:
            raise GridError(
                f"{name} has dims {array.dims}; a store holds variables of {dims}. "
                "Drop it, or transpose it."
            )
    blocks = _blocks(ds)
    times = ds.sizes.get("time")
    target = create(store, ds, block=blocks.size, mode=mode)
    lazy = any(v.chunks is not None for v in ds.data_vars.values())
    if lazy:
        from s2sr_xr.lazy import write

        work = write(ds, target, blocks, times)
        if not compute:
            return work
        work.compute()
        return None
    if not compute:
        from dask.delayed import delayed

        return delayed(_write_loaded)(ds, target, blocks, times)
    _write_loaded(ds, target, blocks, times)
    return None


def _blocks(ds: xr.Dataset) -> Blocks:
    """Return the blocks of the job behind a result, or the usual ones."""
    shape = (ds.sizes["y"], ds.sizes["x"])
    for array in ds.data_vars.values():
        if array.chunks is not None:
            from s2sr_xr.lazy import call_of

            if found := call_of(array.data):
                return found[0].job.blocks
    res = abs(float(ds.x[1] - ds.x[0])) if shape[1] > 1 else 10.0
    side = round(BLOCK / res)
    return Blocks(shape, (min(side, shape[0]), min(side, shape[1])))


def _write_loaded(
    ds: xr.Dataset, target: Target, blocks: Blocks, times: int | None
) -> None:
    clipped = 0
    for t, (i, j, box) in product(range(1 if times is None else times), blocks):
        where = box.slices if times is None else (t, *box.slices)
        # Through the variable: a lazily indexed one reads this block, not all of it.
        values = {str(n): v.variable[where].to_numpy() for n, v in ds.data_vars.items()}
        clipped += target.write((t, i, j), values).clipped
    target.finish(clipped)
