"""Attributes that every reader understands: plain JSON, CF and GeoZarr georeferencing.

References
----------
CF conventions 1.11, section 5.6 (grid mappings). GeoZarr's ``spatial`` and ``proj``
conventions, v0.1, https://github.com/zarr-conventions (a proposal, so it is written for
those who read it and never read back here).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.errors import GridError, redact

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["clean", "geotransform", "geozarr", "is_geozarr", "jsonable"]

# What describes how the input was packed, or the grid that it was on. Copied along, it
# makes readers scale twice or place the pixels wrongly.
_STALE = {
    *("scale_factor", "add_offset", "_FillValue", "missing_value", "nodata"),
    *("nodatavals", "scales", "offsets", "valid_min", "valid_max", "valid_range"),
    *("_Unsigned", "dtype", "GeoTransform", "transform", "res", "spec"),
    *("grid_mapping", "coordinates", "state"),
}
_STALE_PREFIXES = ("raster:", "s2sr:")

_CONVENTIONS = {
    "proj": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "spatial": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
}


def jsonable(value: object) -> Any:  # noqa: ANN401 - JSON is what it is
    """Return `value` as plain JSON types, secrets redacted.

    NumPy scalars and arrays become numbers and lists, dates ISO text, non-finite
    numbers and anything else text.

    >>> jsonable({"flags": np.uint8([1, 2]), "when": np.datetime64("2024-05-01")})
    {'flags': [1, 2], 'when': '2024-05-01'}
    """
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        text = value.astype(str) if value.dtype.kind in "mM" else value
        return jsonable(text.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(v) for v in value]
    is_number = isinstance(value, int) or (
        isinstance(value, float) and math.isfinite(value)
    )
    if value is None or is_number:
        return value
    return redact(value.isoformat() if isinstance(value, date) else str(value))


def clean(attrs: Mapping[Any, object]) -> dict[str, Any]:
    """Return `attrs` as JSON, without packing and grids that no longer hold."""
    return {
        str(k): jsonable(v)
        for k, v in attrs.items()
        if k not in _STALE
        and not str(k).startswith(_STALE_PREFIXES)
        and not is_geozarr(str(k))
    }


def geotransform(template: xr.Dataset) -> tuple[float, ...]:
    """Return the affine ``(a, b, c, d, e, f)`` of the pixels' outer corners.

    Raises
    ------
    GridError
        If `template` has no regular coordinates `x` and `y` of two pixels or more.
    """
    steps, edges = [], []
    for name in ("x", "y"):
        if name not in template.coords or template.sizes[name] < 2:
            raise GridError(
                f"A store needs the centres of its pixels: a coordinate {name!r} along "
                f"its dimension, of two or more; got {dict(template.sizes)}"
            )
        centres = template[name].to_numpy()
        step = float(centres[-1] - centres[0]) / (len(centres) - 1)
        if step == 0 or np.abs(np.diff(centres) - step).max() > 1e-6 * abs(step):
            raise GridError(f"Coordinate {name!r} is not regular; reproject the data")
        steps.append(step)
        edges.append(float(centres[0]) - step / 2)
    return steps[0], 0.0, edges[0], 0.0, steps[1], edges[1]


def geozarr(
    transform: tuple[float, ...], shape: tuple[int, int], crs_wkt: str | None
) -> dict[str, Any]:
    """Return GeoZarr attributes for a group or array of `shape` (rows, columns).

    Raises
    ------
    GridError
        If PROJ does not understand `crs_wkt`.
    """
    a, _, left, _, e, top = transform
    right, bottom = left + a * shape[1], top + e * shape[0]
    attrs: dict[str, Any] = {
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(transform),
        "spatial:shape": list(shape),
        "spatial:bbox": [
            min(left, right),
            min(top, bottom),
            max(left, right),
            max(top, bottom),
        ],
        "spatial:registration": "pixel",
    }
    if crs_wkt:
        from pyproj import CRS
        from pyproj.exceptions import CRSError

        try:
            crs = CRS.from_wkt(crs_wkt)
        except CRSError as error:
            raise GridError(f"crs_wkt of spatial_ref is not a CRS: {error}") from error
        epsg = crs.to_epsg()
        attrs |= {"proj:code": f"EPSG:{epsg}"} if epsg else {}
        attrs["proj:wkt2"] = crs.to_wkt()
    attrs["zarr_conventions"] = [
        {
            "uuid": uuid,
            "name": name,
            "schema_url": "https://raw.githubusercontent.com/zarr-conventions/"
            f"{name}/refs/tags/v0.1/schema.json",
            "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
        }
        for name, uuid in _CONVENTIONS.items()
        if crs_wkt or name != "proj"
    ]
    return attrs


def is_geozarr(name: str) -> bool:
    """Return whether an attribute describes the layout of a store, not its pixels."""
    return name in ("zarr_conventions", "multiscales") or name.startswith(
        ("proj:", "spatial:")
    )
