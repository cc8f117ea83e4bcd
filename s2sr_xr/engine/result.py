"""The Dataset that a call returns: variables, coordinates and attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from s2sr_xr.core import nodata
from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.version import library_version
from s2sr_xr.engine.job import QUALITY, BlockTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.scene import Scene
    from s2sr_xr.engine.model_run import Pass

__all__ = ["dataset"]


def dataset(
    scene: Scene, grid: Grid, task: BlockTask, arrays: Mapping[str, Any]
) -> xr.Dataset:
    """Return the Dataset of a call: `arrays` of its variables, on their grid."""
    dims = ("y", "x") if scene.times is None else ("time", "y", "x")
    attrs = _attrs(scene, task)
    found: dict[str, xr.Variable] = {}
    for name, values in arrays.items():
        found[name] = xr.Variable(dims, values, attrs[name])
        if grid.crs:
            # Both, or a plain to_zarr or to_netcdf loses the CRS.
            found[name].encoding = {
                "grid_mapping": "spatial_ref",
                "coordinates": "spatial_ref",
            }
    order = {name: n for n, name in enumerate(BANDS)}
    named = (n for n in found if n != QUALITY)
    names = sorted(named, key=lambda n: order.get(n, len(order)))
    result = xr.Dataset(
        {n: found[n] for n in (*names, QUALITY)},
        coords={**scene.coords, **grid.coords()},
    )
    result.attrs = {
        **scene.attrs,
        "title": f"Sentinel-2 bands at {grid.res:g} m",
        "s2sr_version": library_version(),
        "s2sr_precision": task.passes[0].predictor.precision,
    }
    return result


def _attrs(scene: Scene, task: BlockTask) -> dict[str, dict[str, Any]]:
    """Return the attributes of each variable: what it is, and what made it."""
    bits = [nodata.FILLED, nodata.SATURATED, nodata.DEFECT, nodata.UNTRAINED]
    out: dict[str, dict[str, Any]] = {
        QUALITY: {
            "long_name": "what the network saw",
            "flag_masks": _uint8(bits),
            "flag_meanings": nodata.MEANINGS,
        }
    }
    made = {b: p for p in task.passes for b in p.keep}
    for band in (*task.native, *made):
        if band not in BANDS:
            axis, moved = band.removeprefix("flow_").split("_")
            out[band] = {
                "long_name": f"shift along {axis} at which {moved} was fetched",
                "units": "1",
                "comment": "in pixels, positive along increasing index",
            }
            continue
        fact = BANDS[band]
        out[band] = {
            "long_name": f"{fact.common}, {fact.wavelength:g} nm",
            "units": scene.units,
            "wavelength_nm": fact.wavelength,
            "native_pixel_m": fact.native,
        }
        if text := scene.planes[band].variable.attrs.get("radiometry"):
            out[band]["radiometry"] = str(text)
        if band in made:
            # The model's name and not the predictor's, which may be a local path.
            out[band]["s2sr_model"] = made[band].spec.name
            out[band]["s2sr_weights"] = made[band].predictor.sha256 or "none"
            if made[band].psf_source:
                width = _width(made[band], band)
                out[band]["s2sr_psf"] = f"{width:g} m, {made[band].psf_source}"
            if made[band].consistent:
                out[band]["s2sr_consistent"] = "means over native pixels kept"
    return out


def _width(run: Pass, band: str) -> float:
    """Return the width of the point spread function that a band is seen through."""
    return run.predictor.psf[run.spec.sensor.index(band)]


def _uint8(bits: list[int]) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.array(bits, np.uint8)
