"""Detectors in sensor geometry: lines and samples instead of metres on a map.

The L1B counterpart of `grid`: what `open_l1b` gives, as bands on one cell grid. A
native pixel is one step of the coordinates and nominally 10 m; there is no CRS.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.core.grid import Grid
from s2sr_xr.core.scene import Plane, Scene
from s2sr_xr.errors import GridError, RadiometryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from s2sr_xr.core.grid import Ground
    from s2sr_xr.core.scene import Object

__all__ = ["Raster", "detector_scene", "detectors_of", "is_sensor"]

NATIVE = 10
"""Nominal side of a pixel, in metres: one line, one sample."""

_GROUP = re.compile(r"d(?:0[1-9]|1[0-2])")
_SCENE_ATTRS = ("detector", "sensing_time", "tie_points", "platform", "source")


class Raster(Grid):
    """A grid of lines and samples of one detector, the first line on top.

    `x_edge` and `y_edge` count samples and lines; `res` is nominal metres.
    """

    __slots__ = ()

    @property
    def step(self) -> float:
        """Side of a pixel, in native lines and samples."""
        return self.res / NATIVE

    @property
    def extent(self) -> Ground:
        """First sample and line, and those after the last."""
        rows, cols = (n * self.step for n in self.shape)
        return self.x_edge, self.y_edge, self.x_edge + cols, self.y_edge + rows

    @property
    def phase(self) -> tuple[float, float]:
        """Cells count from the corner of whatever raster is in hand."""
        return 0.0, 0.0

    def at(self, res: float) -> Raster:
        """Return the raster of pixels of `res` metres over the same lines."""
        rows, cols = (round(n * self.res / res) for n in self.shape)
        return Raster(
            crs="",
            x_edge=self.x_edge,
            y_edge=self.y_edge,
            res=float(res),
            shape=(rows, cols),
        )

    def coords(self) -> dict[str, Any]:
        """Return x and y as float64 pixel centres, in native samples and lines."""
        rows, cols = self.shape
        named = "{}, counted from 0 at the corner of the first native pixel"
        return {
            "y": (
                "y",
                self.y_edge + self.step * (np.arange(rows) + 0.5),
                {"long_name": named.format("line"), "units": "1", "axis": "Y"},
            ),
            "x": (
                "x",
                self.x_edge + self.step * (np.arange(cols) + 0.5),
                {"long_name": named.format("sample"), "units": "1", "axis": "X"},
            ),
        }


NOT_SENSOR = (
    "This takes L1B in sensor geometry, as s2sr_xr.open_l1b gives it: a tree with "
    "groups d01 ... d12, or one of them as a Dataset of bands with units='count'. The "
    "bands of L1C and L2A are aligned already."
)


def is_sensor(obj: Object) -> bool:
    """Return whether an object holds counts of detectors instead of a map."""
    if isinstance(obj, xr.DataTree):
        return bool(_groups(obj)) and "r10m" not in obj
    return isinstance(obj, xr.Dataset) and any(
        canonical(str(n)) and v.attrs.get("units") == "count"
        for n, v in obj.data_vars.items()
    )


def detectors_of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Return each detector of a tree by the name of its group.

    Raises
    ------
    GridError
        There is none: the object is an image on a map, or something else.
    """
    groups = _groups(tree)
    if not groups:
        raise GridError(f"{NOT_SENSOR} The tree has {sorted(tree.children)}.")
    return {name: node.to_dataset() for name, node in groups.items()}


def _groups(tree: xr.DataTree) -> Mapping[str, xr.DataTree]:
    return {n: c for n, c in tree.children.items() if _GROUP.fullmatch(n)}


def detector_scene(ds: xr.Dataset) -> Scene:
    """Return the bands of one detector, checked, without reading a pixel.

    Raises
    ------
    GridError
        It is not a detector, or y and x are not every line and sample, in order.
    RadiometryError
        A band does not say that it holds counts.
    """
    if not is_sensor(ds):
        raise GridError(f"{NOT_SENSOR} The Dataset has {sorted(map(str, ds))}.")
    raster = _raster(ds)
    planes: dict[str, Plane] = {}
    ceiling = np.inf
    for name, array in ds.data_vars.items():
        band = canonical(str(name))
        if band is None:
            continue
        if array.attrs.get("units") != "count" or array.dtype.kind != "f":
            raise RadiometryError(
                f"{name} has units={array.attrs.get('units')!r} and holds "
                f"{array.dtype}; L1B networks take float counts. Say so where they "
                f'are: ds["{name}"] = ds["{name}"].astype("float32").assign_attrs('
                'units="count").'
            )
        if made_by := array.attrs.get("s2sr_model"):
            raise GridError(
                f"{band} was made by {made_by}. Give the bands as they were recorded."
            )
        if set(array.dims) != {"y", "x"}:
            raise GridError(f"{name} has dims {array.dims}; it needs ('y', 'x').")
        ceiling = min(ceiling, float(array.attrs.get("saturated", np.inf)))
        variable = array.variable.transpose("y", "x")
        planes[band] = Plane(variable, raster, BANDS[band].native)
    kept = {str(k): v for k, v in ds.attrs.items() if k in _SCENE_ATTRS}
    return Scene(planes, attrs={"level": "L1B", **kept}, units="count", ceiling=ceiling)


def _raster(ds: xr.Dataset) -> Raster:
    edges = []
    for dim, kind in (("y", "lines"), ("x", "samples")):
        if dim not in ds.coords or not ds.sizes.get(dim):
            raise GridError(
                f"The detector has no {kind}: its sizes are {dict(ds.sizes)}, its "
                f"coordinates {sorted(map(str, ds.coords))}. Open it with open_l1b."
            )
        values = ds[dim].to_numpy().astype(np.float64)
        if values.size > 1 and not np.allclose(np.diff(values), 1, rtol=0, atol=1e-6):
            raise GridError(
                f"{dim} does not count every one of the {kind} in order (steps of "
                f"{np.diff(values).min():g} to {np.diff(values).max():g}); select "
                "whole ranges, without a stride."
            )
        edges.append(float(values[0]) - 0.5)
    shape = (ds.sizes["y"], ds.sizes["x"])
    return Raster(crs="", x_edge=edges[1], y_edge=edges[0], res=10.0, shape=shape)
