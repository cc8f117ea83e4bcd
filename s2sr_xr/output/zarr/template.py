"""The outline of a store: everything but pixels, laid down before the first block."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import numpy as np
import xarray as xr

from s2sr_xr.core import bands
from s2sr_xr.core.version import library_version
from s2sr_xr.errors import ChunkError, StoreError
from s2sr_xr.output.zarr.attrs import clean, geotransform, geozarr, jsonable
from s2sr_xr.output.zarr.lock import refuse_if_held
from s2sr_xr.output.zarr.packing import COUNTS, REFLECTANCE, Packing
from s2sr_xr.output.zarr.storage import (
    attributes,
    in_memory,
    make_room,
    open_store,
    place,
    storing,
)
from s2sr_xr.output.zarr.target import Layout, Target, Variable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import zarr
    from zarr.abc.store import Store

__all__ = ["begun", "create", "outlined", "restore", "unknown"]

_UNIT = 1098  # 10 980 is ten of them; 2.4 MB before compression
_TIME_UNITS = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}


def create(
    store: str | Path | Store,
    template: xr.Dataset,
    *,
    block: tuple[int, int],
    mode: Literal["w-", "w"] = "w-",
    unit: tuple[int, int] | None = None,
    layout: Layout = "plain",
    attrs: Mapping[str, object] | None = None,
    token: Mapping[str, object] | None = None,
) -> Target:
    """Create a store with everything but pixels: metadata, coordinates and CRS.

    Parameters
    ----------
    store
        Path, URL, or Zarr store (for one that needs credentials or options).
    template
        Variables ``(time, y, x)``, or all ``(y, x)``, on regular pixel centres `x` and
        `y`. Their pixels are never looked at. Floats named like bands are packed into
        16 bits, by `REFLECTANCE` or, with ``units="count"``, by `COUNTS`; other floats
        are stored as float32, integers as they are. The CRS is `crs_wkt` of a scalar
        coordinate `spatial_ref`.
    block
        Rows and columns that one `Target.write` brings.
    mode
        ``"w-"`` refuses whatever exists; ``"w"`` replaces a store of this library, and
        nothing else.
    unit
        Rows and columns of a write unit, of which a block is a whole number. Default:
        the largest such number up to 1098; the whole block where it is a shard.
    layout
        "plain": a write unit is one Zarr chunk, one file. "sharded": it is a shard of
        chunks of up to 1098 px: fewer files, for object stores.
    attrs
        Added to the template's own attributes.
    token
        What decides the pixels, kept in the attributes for comparison on resume.

    Returns
    -------
    Target
        The handle to write blocks with.

    Raises
    ------
    ChunkError
        If `block` is not a whole number of write units.
    GridError
        If `template` has no regular `x` and `y`, or its CRS cannot be understood.
    StoreError
        If something is there already, the place cannot be written, or the template
        holds what a store cannot.
    """
    import zarr
    from zarr.errors import ContainsArrayError, ContainsGroupError

    target, outline = outlined(place(store), template, block, unit, layout)
    coords, georeference = _coordinates(template)
    coords.attrs = {
        "title": "Sentinel-2 imagery made finer by s2sr_xr",
        **clean(template.attrs),
        **clean(attrs or {}),
        **georeference,
        "Conventions": "CF-1.11",
        "state": "writing",
        "s2sr:version": library_version(),
        "s2sr:key": target.key,
        "s2sr:block": list(target.block),
        "s2sr:blocks": list(target.blocks),
        "s2sr:outline": outline,
        "s2sr:token": jsonable(token or {}),
    }
    with storing("create", target.store):
        at = open_store(target.store)
        _check_not_itself(at, target.store, template)
        if attributes(at) is not None:
            refuse_if_held(at)
        make_room(at, mode)
        # The group with its attributes comes first and whole: from here on the store is
        # known for ours, and as unfinished.
        try:
            root = zarr.create_group(at, attributes=coords.attrs, zarr_format=3)
            coords.to_zarr(at, mode="a", zarr_format=3, consolidated=False)
            for v in target.variables:
                _create_array(root, v, template[v.name], target, georeference)
        except (ContainsGroupError, ContainsArrayError) as error:
            raise begun(target.store) from error
    return target


def begun(where: str | Store) -> StoreError:
    """Return the error of a store that two runs begin at once."""
    return StoreError(
        f"Another run begins {where} at this moment. Wait until it is done, or run "
        "again with resume=True to resume from what it leaves.",
        store=str(where),
    )


def outlined(
    where: str | Store,
    template: xr.Dataset,
    block: tuple[int, int],
    unit: tuple[int, int] | None,
    layout: Layout,
) -> tuple[Target, dict[str, Any]]:
    """Return the target of a store to be made, and what of the template is compared."""
    target = _target(where, template, block=block, unit=unit, layout=layout)
    _, georeference = _coordinates(template)
    return target, jsonable(_outline(target, template, georeference))


def restore(where: str | Store, attrs: Mapping[str, Any]) -> Target:
    """Return the target of a store from its attributes alone.

    Raises
    ------
    StoreError
        The store is of a version that kept no outline.
    """
    said = attrs.get("s2sr:outline")
    if said is None:
        raise unknown(where)
    variables = tuple(
        Variable(
            name=n, dtype=v["dtype"], packing=v["packing"] and Packing(**v["packing"])
        )
        for n, v in sorted(said["variables"].items())
    )
    return Target(
        store=where,
        key=attrs["s2sr:key"],
        shape=tuple(said["shape"]),
        block=tuple(said["block"]),
        unit=tuple(said["unit"]),
        layout=said["layout"],
        variables=variables,
        timed=said["timed"],
        pid=os.getpid() if in_memory(where) else None,
    )


def unknown(where: str | Store) -> StoreError:
    """Return the error for a store that may be of another job."""
    return StoreError(
        f"{where} was begun by an earlier version of s2sr_xr, which did not say what "
        'decides its pixels. Write it again from the start, with mode="w".',
        store=str(where),
    )


def _target(
    where: str | Store,
    template: xr.Dataset,
    *,
    block: tuple[int, int],
    unit: tuple[int, int] | None,
    layout: Layout,
) -> Target:
    if layout not in ("plain", "sharded"):
        raise StoreError(f'layout is "plain" or "sharded", got {layout!r}')
    timed = _timed(template)
    rows, cols = template.sizes["y"], template.sizes["x"]
    if layout == "sharded" and unit is None:
        unit = block
    block, unit = _whole(block, unit)
    return Target(
        store=where,
        key=uuid4().hex,
        shape=(template.sizes["time"] if timed else 1, rows, cols),
        block=block,
        unit=(min(unit[0], rows), min(unit[1], cols)),
        layout=layout,
        variables=tuple(
            _variable(template[n]) for n in sorted(map(str, template.data_vars))
        ),
        timed=timed,
        pid=os.getpid() if in_memory(where) else None,
    )


def _outline(
    target: Target, template: xr.Dataset, georeference: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what of a template decides where pixels lie and how they are stored."""
    grid = {
        "transform": georeference["spatial:transform"],
        "crs": georeference.get("proj:code") or georeference.get("proj:wkt2"),
    }
    named = {n: template[n].to_numpy() for n in ("time", "item_id") if n in template}
    return {
        "grid": grid,
        "shape": list(target.shape),
        "timed": target.timed,
        **{n: jsonable(v) for n, v in named.items()},
        "variables": {
            v.name: {"dtype": v.dtype, "packing": v.packing and asdict(v.packing)}
            for v in target.variables
        },
        "block": list(target.block),
        "unit": list(target.unit),
        "layout": target.layout,
    }


def _check_not_itself(at: Store, name: object, template: xr.Dataset) -> None:
    """Raise if the pixels to be written come from the store that would be replaced."""
    own = template.attrs.get("s2sr:key")
    if own is not None and own == (attributes(at) or {}).get("s2sr:key"):
        raise StoreError(
            f"The pixels come from {name} itself, which writing would remove first. "
            "Write to another path, then move it.",
            store=str(name),
        )


def _timed(template: xr.Dataset) -> bool:
    """Return whether variables have a time axis; raise unless they agree."""
    dims = {n: v.dims for n, v in template.data_vars.items()}
    kinds = set(dims.values())
    if kinds not in ({("time", "y", "x")}, {("y", "x")}):
        raise StoreError(
            f"All variables must be (time, y, x), or all (y, x), got {dims}; transpose "
            "or drop the others"
        )
    return kinds == {("time", "y", "x")}


def _whole(
    block: tuple[int, int], unit: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the block and its write unit; raise unless one is a multiple of the other.

    >>> _whole((4392, 366), None)
    ((4392, 366), (1098, 366))
    """
    if min(block) < 1 or (unit and min(unit) < 1):
        raise ChunkError(
            f"Blocks and write units are positive, got {block}, {unit}: the Dataset is "
            "empty, or block= is not a size."
        )
    if unit is None:
        # A block without a fair divisor, such as a prime, is one unit.
        fair = range(_UNIT // 4, _UNIT + 1)
        down, right = (
            max((u for u in fair if b % u == 0), default=b) for b in map(int, block)
        )
        unit = down, right
    if any(b % u for b, u in zip(block, unit, strict=True)):
        raise ChunkError(
            f"A block of {block} px is not a whole number of write units of {unit} px; "
            "two blocks would write into one file and lose pixels"
        )
    return (int(block[0]), int(block[1])), (int(unit[0]), int(unit[1]))


def _variable(array: xr.DataArray) -> Variable:
    name = str(array.name)
    if array.dtype.kind in "iu":
        return Variable(name=name, dtype=array.dtype.name, packing=None)
    if array.dtype.kind != "f":
        raise StoreError(f"{name} is {array.dtype}; a store takes floats and integers")
    if bands.canonical(name) != name:
        return Variable(name=name, dtype="float32", packing=None)
    packing = COUNTS if array.attrs.get("units") == "count" else REFLECTANCE
    return Variable(name=name, dtype="uint16", packing=packing)


def _coordinates(template: xr.Dataset) -> tuple[xr.Dataset, dict[str, Any]]:
    """Return the coordinates as variables ready to write, and GeoZarr attributes."""
    a, b, c, d, e, f = transform = geotransform(template)
    variables = {}
    for name, coord in template.coords.items():
        values = coord.to_numpy()
        encoding: dict[str, Any] = {"_FillValue": None}
        if values.dtype.kind == "M":  # exact: xarray would choose a unit by itself
            unit = _TIME_UNITS[np.datetime_data(values.dtype)[0]]
            encoding |= {"units": f"{unit} since 1970-01-01", "dtype": "int64"}
        elif values.dtype.kind in "UTO":
            # Fixed-length strings have no stable Zarr v3 specification.
            values = values.astype(object)
            if not all(isinstance(v, str) for v in values.flat):
                raise StoreError(
                    f"Coordinate {name!r} holds objects that are not text; leave it "
                    f"out, ds.drop_vars({name!r})"
                )
        if values.ndim:
            encoding["chunks"] = values.shape
        variables[name] = xr.Variable(coord.dims, values, clean(coord.attrs), encoding)
    crs_wkt = None
    if "spatial_ref" in variables:
        attrs = variables["spatial_ref"].attrs
        crs_wkt = attrs.get("crs_wkt")
        attrs["GeoTransform"] = " ".join(map(str, (c, a, b, f, d, e)))
    shape = template.sizes["y"], template.sizes["x"]
    return xr.Dataset(variables).reset_coords(), geozarr(transform, shape, crs_wkt)


def _create_array(
    root: zarr.Group,
    variable: Variable,
    array: xr.DataArray,
    target: Target,
    georeference: Mapping[str, Any],
) -> None:
    from zarr.codecs import BloscCodec

    attrs = {**clean(array.attrs), **georeference}
    if variable.packing:
        attrs.setdefault("units", "1")
        attrs |= asdict(variable.packing) | {"_FillValue": Packing.fill}
    # Named on each variable, so that a plain open_zarr finds the CRS (rioxarray#815).
    attached = sorted(str(n) for n in array.coords if n not in array.indexes)
    if attached:
        attrs["coordinates"] = " ".join(attached)
    if "spatial_ref" in attached:
        attrs["grid_mapping"] = "spatial_ref"
    # On 124 real bands (benchmarks/codecs.py) twice as fast to write as zarr's default,
    # 10 % smaller, as fast to read; "shuffle": 2 % smaller, 10 % slower.
    codec = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")
    lead = (1,) if target.timed else ()
    sharded = target.layout == "sharded"
    chunk = _whole(target.unit, None)[1] if sharded else target.unit
    root.create_array(
        variable.name,
        shape=array.shape,
        chunks=lead + chunk,
        shards=lead + target.unit if sharded else None,
        dtype=variable.dtype,
        fill_value=np.nan if variable.dtype == "float32" else 0,
        dimension_names=[str(d) for d in array.dims],
        attributes=attrs,
        compressors=codec,
    )
