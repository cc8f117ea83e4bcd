"""``.s2sr`` on DataTree, Dataset and DataArray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import xarray as xr

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dask.delayed import Delayed
    from zarr.abc.store import Store

    from s2sr_xr.engine.plan import Plan
    from s2sr_xr.readers.crop import Ground, SupportsGeoInterface

__all__ = ["DataArrayAccessor", "DataTreeAccessor", "DatasetAccessor"]

Obj = TypeVar("Obj", xr.DataTree, xr.Dataset, xr.DataArray)
Detectors = TypeVar("Detectors", xr.DataTree, xr.Dataset)


class Accessor(Generic[Obj]):
    """Sentinel-2 super-resolution on an xarray object.

    Stateless: everything is an argument, what was done stands in the result's attrs.
    """

    def __init__(self, obj: Obj) -> None:
        self._obj: Obj = obj

    def upsample(
        self,
        model: str | os.PathLike[str] | Mapping[str, str] = "dsen2",
        *,
        bands: Sequence[str] | None = None,
        keep_native: bool = True,
        device: str = "auto",
        precision: str = "float32",
        consistent: bool = False,
        batch: int | None = None,
        check: bool = True,
    ) -> xr.Dataset:
        """Return the 20 m and 60 m bands at 10 m; see `s2sr_xr.upsample`."""
        from s2sr_xr.engine.api import upsample

        return upsample(
            self._obj,
            model,
            bands=bands,
            keep_native=keep_native,
            device=device,
            precision=precision,
            consistent=consistent,
            batch=batch,
            check=check,
        )

    def superresolve(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        bands: Sequence[str] | None = None,
        device: str = "auto",
        precision: str = "float32",
        consistent: bool = False,
        batch: int | None = None,
        check: bool = True,
    ) -> xr.Dataset | xr.DataTree:
        """Return bands on pixels finer than 10 m; see `s2sr_xr.superresolve`."""
        from s2sr_xr.engine.api import superresolve

        return superresolve(
            self._obj,
            model,
            bands=bands,
            device=device,
            precision=precision,
            consistent=consistent,
            batch=batch,
            check=check,
        )

    def decode(self, *, offset: float, scale: float = 1e-4) -> Obj:
        """Return counts as reflectance; see `s2sr_xr.decode`."""
        from s2sr_xr.core.decode import decode

        return decode(self._obj, offset=offset, scale=scale)

    def finetune(
        self,
        model: str | os.PathLike[str],
        *,
        steps: int = 300,
        seed: int = 0,
        lr: float = 1e-3,
        out: str | os.PathLike[str] | None = None,
    ) -> Path:
        """Return a model's weights after learning here; see `s2sr_xr.finetune`."""
        from s2sr_xr.train.finetune import finetune

        return finetune(self._obj, model, steps=steps, seed=seed, lr=lr, out=out)

    def window(
        self,
        *,
        bbox: Ground | None = None,
        geometry: Mapping[str, Any] | SupportsGeoInterface | None = None,
        x: tuple[float, float] | None = None,
        y: tuple[float, float] | None = None,
        crs: str = "EPSG:4326",
    ) -> Obj:
        """Return the part over an area, in whole cells; see `s2sr_xr.window`."""
        from s2sr_xr.readers.crop import window

        return window(self._obj, bbox=bbox, geometry=geometry, x=x, y=y, crs=crs)


class SensorAccessor(Accessor[Detectors]):
    """What is done with detectors of L1B too."""

    def register(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        reference: str = "B03",
        flow: bool = False,
        device: str = "auto",
        precision: str = "float32",
        batch: int | None = None,
    ) -> Detectors:
        """Return the bands of L1B aligned to one of them; see `s2sr_xr.register`."""
        from s2sr_xr.engine.api import register

        return register(
            self._obj,
            model,
            reference=reference,
            flow=flow,
            device=device,
            precision=precision,
            batch=batch,
        )


@xr.register_datatree_accessor("s2sr")
class DataTreeAccessor(SensorAccessor[xr.DataTree]):
    """Super-resolution on a tree with groups ``r10m``, ``r20m``, ``r60m``."""


@xr.register_dataarray_accessor("s2sr")
class DataArrayAccessor(Accessor[xr.DataArray]):
    """Super-resolution on an array with dims ``(time, band, y, x)``."""


@xr.register_dataset_accessor("s2sr")
class DatasetAccessor(SensorAccessor[xr.Dataset]):
    """Super-resolution on a Dataset on one 10 m grid, and what is done with results."""

    def plan(self, *, threads: int | None = None) -> Plan:
        """Return what a lazy result will cost; see `s2sr_xr.plan`."""
        from s2sr_xr.engine.plan import plan

        return plan(self._obj, threads=threads)

    def to_zarr(
        self,
        store: str | Path | Store,
        *,
        mode: Literal["w-", "w"] = "w-",
        resume: bool = False,
        layout: Literal["plain", "sharded"] = "plain",
        compute: bool = True,
    ) -> Delayed | None:
        """Write a result to a Zarr store; see `s2sr_xr.to_zarr`."""
        from s2sr_xr.output.to_zarr import to_zarr

        return to_zarr(
            self._obj, store, mode=mode, resume=resume, layout=layout, compute=compute
        )

    def to_cog(self, path: str | Path, *, overwrite: bool = False) -> dict[str, Path]:
        """Write a result as cloud-optimised GeoTIFFs; see `s2sr_xr.to_cog`."""
        from s2sr_xr.output.cog import to_cog

        return to_cog(self._obj, path, overwrite=overwrite)
