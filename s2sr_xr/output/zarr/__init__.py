"""Zarr stores that are outlined first, filled a block at a time, and opened when whole.

::

    target = create(path, template, block=(2196, 2196))  # state "writing"
    target.write((t, row, col), arrays)                  # any process, any order
    target.finish()                                      # state "complete"
    open_result(path)                                    # refuses any other state

Pixels are float in memory and 16 bits on disk; `encode` is the only way there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import xarray as xr

from s2sr_xr.errors import StoreError
from s2sr_xr.output.zarr.attrs import is_geozarr
from s2sr_xr.output.zarr.packing import COUNTS, REFLECTANCE, Packing, decode, encode
from s2sr_xr.output.zarr.records import Index, Record
from s2sr_xr.output.zarr.resume import resume_or_create
from s2sr_xr.output.zarr.storage import (
    RECORDS,
    children,
    open_store,
    our_attributes,
    place,
    storing,
)
from s2sr_xr.output.zarr.target import Layout, Target, Variable
from s2sr_xr.output.zarr.template import create
from s2sr_xr.output.zarr.verify import BadBlock, verify

if TYPE_CHECKING:
    from pathlib import Path

    from zarr.abc.store import Store

__all__ = [
    "COUNTS",
    "REFLECTANCE",
    "BadBlock",
    "Index",
    "Layout",
    "Packing",
    "Record",
    "Target",
    "Variable",
    "create",
    "decode",
    "encode",
    "open_result",
    "resume_or_create",
    "verify",
]


def open_result(
    store: str | Path | Store,
    *,
    chunks: Any = None,  # noqa: ANN401 - whatever xarray takes
) -> xr.Dataset:
    """Open a complete store lazily, as float32 with NaN where there is no pixel.

    Parameters
    ----------
    store
        Path, URL, or Zarr store.
    chunks
        As in `xarray.open_zarr`. By default no Dask: pixels are read when indexed;
        ``chunks={}`` gives one Dask chunk a Zarr chunk.

    Returns
    -------
    xr.Dataset
        Bands as float32 reflectance (or counts), integer variables as stored, with the
        coordinates of the template. A plain `xarray.open_zarr` gives the same in
        float64.

    Raises
    ------
    StoreError
        If nothing is there, it is not of this library, or it is not complete.
    """
    with storing("open", store):
        at = open_store(place(store), read_only=True)
        attrs = our_attributes(at)
        if attrs["state"] != "complete":
            done = sum(n.endswith(".json") for n in children(at, RECORDS))
            raise StoreError(
                f"{at} is unfinished: state {attrs['state']!r}, {done} of "
                f"{math.prod(attrs['s2sr:blocks'])} blocks are written. Run its job "
                'again, with resume=True to resume, or with mode="w" from the start.',
                store=str(at),
            )
        raw = xr.open_zarr(at, chunks=chunks, decode_cf=False, consolidated=True)
    for v in raw.data_vars.values():
        if "scale_factor" in v.attrs:
            packing = Packing(**{k: v.attrs[k] for k in ("scale_factor", "add_offset")})
            v.attrs["scale_factor"], v.attrs["add_offset"] = packing.cf
    opened = xr.decode_cf(raw)
    for described in (opened, *opened.data_vars.values()):
        # GeoZarr's describe the store; on a crop of it they would be wrong.
        described.attrs = {
            k: v for k, v in described.attrs.items() if not is_geozarr(str(k))
        }
    for v in opened.data_vars.values():
        # Else xarray would pack the pixels of whatever is computed from them, and wrap.
        for name in ("scale_factor", "add_offset", "_FillValue", "dtype"):
            v.encoding.pop(name, None)
    return opened
