"""From digital numbers to reflectance, for objects of xarray."""

from __future__ import annotations

import math
from typing import TypeVar

import xarray as xr

from s2sr_xr.core import nodata
from s2sr_xr.core.bands import canonical
from s2sr_xr.errors import RadiometryError

__all__ = ["Obj", "decode"]

Obj = TypeVar("Obj", xr.DataTree, xr.Dataset, xr.DataArray)


def decode(obj: Obj, *, offset: float, scale: float = 1e-4) -> Obj:
    """Return counts as reflectance: ``(count + offset) * scale``, NaN where missing.

    Missing is a count of 0, and what a variable's own attributes call missing
    (``_FillValue``, ``missing_value``, ``nodata``).

    Parameters
    ----------
    obj
        Variables named like bands hold counts; others are handed on as they are.
    offset
        Added to the counts: -1000 from processing baseline 04.00 on, 0 before.
    scale
        Reflectance of one count.

    Raises
    ------
    RadiometryError
        `scale` or `offset` is not such a number, a variable is decoded already, or none
        has the name of a band.
    """
    if not 0 < scale < math.inf:
        raise RadiometryError(f"scale is the reflectance of one count; got {scale}.")
    if not math.isfinite(offset):
        raise RadiometryError(f"offset is added to the counts; got {offset}.")
    if isinstance(obj, xr.DataTree):
        names = {str(n) for node in obj.subtree for n in node.data_vars}
        if not any(map(canonical, names)):
            raise RadiometryError(
                f"No variable is named like a band; the tree has {sorted(names)}."
            )
        return obj.map_over_datasets(lambda ds: _decode(ds, offset, scale))
    if isinstance(obj, xr.DataArray):
        return _decoded(obj, offset, scale)
    if not any(canonical(str(n)) for n in obj.data_vars):
        raise RadiometryError(
            f"No variable is named like a band; the Dataset has {list(obj.data_vars)}."
        )
    return _decode(obj, offset, scale)


_OF_COUNTS = ("scale_factor", "add_offset", "_FillValue", "missing_value", "nodata")
"""Attributes that say how counts are meant."""


def _decode(ds: xr.Dataset, offset: float, scale: float) -> xr.Dataset:
    names = [n for n in ds.data_vars if canonical(str(n))]
    return ds.assign({n: _decoded(ds[n], offset, scale) for n in names})


def _decoded(counts: xr.DataArray, offset: float, scale: float) -> xr.DataArray:
    import numpy as np

    known = counts.attrs.get("radiometry")
    # Integers are counts, whatever attributes of theirs outlived arithmetic.
    if known and counts.attrs.get("units") == "1" and counts.dtype.kind == "f":
        raise RadiometryError(
            f"{counts.name} is reflectance already ({known}): leave decode out."
        )
    # Dividing by 10 000 rounds once, as a correctly rounded reader does.
    values = (counts.astype(np.float32) + np.float32(offset)) / np.float32(1 / scale)
    decoded = values.where(~counts.isin([0, *nodata.declared(counts.attrs)]))
    decoded.attrs = {k: v for k, v in counts.attrs.items() if k not in _OF_COUNTS} | {
        "units": "1",
        "radiometry": f"{offset:+g}, times {scale:g}, from user",
    }
    decoded.encoding = {}
    return decoded
