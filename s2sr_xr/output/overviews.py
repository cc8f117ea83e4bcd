"""Coarser copies of the pixels of a store, for viewers that start from afar.

References
----------
Zarr's ``multiscales`` convention, v0.1, https://github.com/zarr-conventions/multiscales
(a proposal, so it is written for those who read it and never read back here).
"""

from __future__ import annotations

import warnings
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from s2sr_xr.engine.job import Blocks
from s2sr_xr.errors import GridError
from s2sr_xr.output.zarr import Packing, decode, encode, open_result
from s2sr_xr.output.zarr.attrs import geotransform, geozarr
from s2sr_xr.output.zarr.storage import RECORDS, consolidate, open_store, place, storing

if TYPE_CHECKING:
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from s2sr_xr.core.tiling import Box

__all__ = ["add_pyramid", "halve", "mean_of"]

GROUP = "overviews"
"""Where the levels lie in a store, as x2, x4, x8 ..."""

ENOUGH = 512
"""Without `levels`, halving stops when both sides are at most this many pixels."""

BLOCK = 1098
"""Sides of the blocks that are worked on, near this many pixels of the coarser level:
40 MB of float64 at a time, whatever the size of the store."""

CONVENTION = {
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "name": "multiscales",
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/"
    "refs/tags/v0.1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v0.1/README.md",
}


def add_pyramid(
    store: str | Path | Store, *, levels: int | None = None
) -> tuple[str, ...]:
    """Write a pyramid into a complete store: each level half as fine as the one before.

    A coarse pixel is the mean of the valid ones of its 2 x 2, and missing only if all
    are; flags (variables with ``flag_masks``) are joined bit by bit; of other integers
    the upper left one stays. Where a side is odd, the last coarse pixel reaches beyond
    the image. Levels are groups ``overviews/x2``, ``x4`` ... with coordinates of their
    own, packed like the store; ``xr.open_zarr(store, group="overviews/x2")`` opens one,
    and ``xr.open_datatree(store, group="overviews")`` all. The store stays complete
    throughout, and an older pyramid is replaced.

    Parameters
    ----------
    store
        Path, URL, or Zarr store.
    levels
        How often to halve. None: until both sides are at most 512 pixels, at least
        once.

    Returns
    -------
    tuple[str, ...]
        The groups, from fine to coarse.

    Raises
    ------
    StoreError
        The store is unfinished, not of this library, or cannot be written.
    GridError
        `levels` is less than one, or leaves less than two pixels along a side.
    """
    return write_pyramid(store, levels, block=BLOCK)


def write_pyramid(
    store: str | Path | Store, levels: int | None, *, block: int
) -> tuple[str, ...]:
    """Write a pyramid, holding some `block` x `block` pixels at once."""
    import zarr

    sizes = open_result(store).sizes
    shapes = _shapes((sizes["y"], sizes["x"]), levels)
    with storing("write the pyramid of", store):
        at = open_store(place(store))
        root = zarr.open_group(at, mode="r+", use_consolidated=False)
        _remove(root)
        names = tuple(f"{GROUP}/x{2**n}" for n in range(1, len(shapes)))
        root.create_group(GROUP)
        for source, name, size in zip(
            ("", *names[:-1]), names, shapes[1:], strict=True
        ):
            _write_level(at, source, name, size, block)
        _describe(at, names)
    return names


def _shapes(shape: tuple[int, int], levels: int | None) -> list[tuple[int, int]]:
    """Return rows and columns of every level, the image itself first."""
    shapes = [shape]
    while min(shapes[-1]) > 2 and (levels is not None or max(shapes[-1]) > ENOUGH):
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    most = len(shapes) - 1
    if levels is None and most:
        return shapes
    if levels is None:
        return _shapes(shape, 1)
    if not 1 <= levels <= most:
        raise GridError(
            f"levels={levels} of an image of {shape} px: a pyramid has 1 to {most} "
            "levels, so that two pixels are left along each side."
        )
    return shapes[: levels + 1]


def _remove(root: zarr.Group) -> None:
    """Remove an older pyramid; its description first, so that none is ever half."""
    if "multiscales" not in root.attrs and GROUP not in root:
        return
    described = consolidate(root.store)
    conventions: Any = described.attrs.get("zarr_conventions", [])
    kept = [c for c in conventions if c["name"] != CONVENTION["name"]]
    attrs = {k: v for k, v in described.attrs.items() if k != "multiscales"}
    described.attrs.put(attrs | {"zarr_conventions": kept})
    del root[GROUP]


def _write_level(
    at: Store, source: str, name: str, shape: tuple[int, int], block: int
) -> None:
    """Write the level `name` of `shape` from the level `source`."""
    import zarr

    fine = zarr.open_group(at, path=source, mode="r", use_consolidated=False)
    with warnings.catch_warnings():
        # zarr-python meets the records of the blocks without knowing them.
        warnings.filterwarnings("ignore", f"Object at {RECORDS} is not")
        plain = xr.open_zarr(
            at, group=source, chunks=None, decode_cf=False, consolidated=False
        )
    images = [n for n, v in plain.variables.items() if v.dims[-2:] == ("y", "x")]
    coords, georeference = _coordinates(plain.drop_vars(images), shape)
    coords.to_zarr(at, group=name, mode="a", zarr_format=3, consolidated=False)
    group = zarr.open_group(at, path=name, mode="r+", use_consolidated=False)
    group.attrs.update(georeference)
    for image in map(str, images):
        old: Any = fine[image]
        *lead, rows, cols = old.shape
        chunk = tuple(min(c, n) for c, n in zip(old.chunks[-2:], shape, strict=True))
        new = group.create_array(
            image,
            shape=(*lead, *shape),
            chunks=(*old.chunks[:-2], *chunk),
            dtype=old.dtype,
            fill_value=old.fill_value,
            dimension_names=old.metadata.dimension_names,
            attributes={**old.attrs, **georeference},
            compressors=old.compressors,
        )
        side = [c * max(1, block // c) for c in chunk]
        for when in np.ndindex(*lead):
            for _, _, box in Blocks(shape, (side[0], side[1])):
                part = old[(*when, *_under(box, (rows, cols)))]
                new[(*when, *box.slices)] = halve(part, old.attrs)


def _coordinates(
    plain: xr.Dataset, shape: tuple[int, int]
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Return the coordinates of pixels twice as large, and GeoZarr attributes."""
    a, b, c, d, e, f = geotransform(plain.set_coords(["x", "y"]))
    transform = (2 * a, b, c, d, 2 * e, f)
    centres = {
        "x": c + 2 * a * (np.arange(shape[1]) + 0.5),
        "y": f + 2 * e * (np.arange(shape[0]) + 0.5),
    }
    level = plain.drop_vars(centres).drop_attrs(deep=False)
    for name, values in centres.items():
        level[name] = (name, values, plain[name].attrs)
    crs_wkt = None
    if "spatial_ref" in level:
        attrs = level["spatial_ref"].attrs
        crs_wkt = attrs.get("crs_wkt")
        attrs["GeoTransform"] = " ".join(map(str, (c, 2 * a, b, f, d, 2 * e)))
    for variable in level.variables.values():
        variable.encoding = {"_FillValue": None}
        if variable.shape:
            variable.encoding["chunks"] = variable.shape
    return level.reset_coords(), geozarr(transform, shape, crs_wkt)


def _under(box: Box, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the fine pixels under coarse ones."""
    rows, cols = (
        slice(2 * s.start, min(2 * s.stop, n))
        for s, n in zip((box.rows, box.cols), shape, strict=True)
    )
    return rows, cols


def halve(stored: NDArray[Any], attrs: Any) -> NDArray[Any]:  # noqa: ANN401
    """Return half as many stored pixels along each side, odd ones rounded up."""
    if "scale_factor" in attrs:
        packing = Packing(
            scale_factor=attrs["scale_factor"], add_offset=attrs["add_offset"]
        )
        return encode(mean_of(decode(stored, packing)), packing)[0]
    if stored.dtype.kind == "f":
        return mean_of(stored).astype(stored.dtype)
    if "flag_masks" in attrs:
        joined = np.zeros([-(-n // 2) for n in stored.shape], stored.dtype)
        for part in _quarters(stored):
            joined[tuple(map(slice, part.shape))] |= part
        return joined
    return stored[::2, ::2]


def mean_of(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean of the valid pixels of every 2 x 2, NaN where none is."""
    sums = np.zeros([-(-n // 2) for n in values.shape])
    counts = np.zeros(sums.shape, np.uint8)
    for part in _quarters(values):
        where = tuple(map(slice, part.shape))
        valid = np.isfinite(part)
        np.add(sums[where], part, out=sums[where], where=valid)
        counts[where] += valid
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)


def _quarters(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the four pixels of every 2 x 2 as images; the last may be smaller."""
    return [values[i::2, j::2] for i, j in product((0, 1), (0, 1))]


def _describe(at: Store, names: tuple[str, ...]) -> None:
    """Consolidate the store, and say what its levels are."""
    root = consolidate(at)
    paths = (".", *names)
    layout = []
    for n, path in enumerate(paths):
        attrs = root.attrs if path == "." else root[path].attrs
        entry: dict[str, Any] = {
            "asset": path,
            "transform": {"scale": [2.0, 2.0] if n else [1.0, 1.0]},
            **{k: attrs[k] for k in ("spatial:shape", "spatial:transform")},
        }
        entry["transform"]["translation"] = [0.0, 0.0]
        layout.append(entry | ({"derived_from": paths[n - 1]} if n else {}))
    conventions: Any = root.attrs["zarr_conventions"]
    root.attrs.update(
        {
            "zarr_conventions": [*conventions, CONVENTION],
            "multiscales": {"layout": layout, "resampling_method": "average"},
        }
    )
