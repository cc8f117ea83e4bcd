"""``.s2sr`` on DataTree, Dataset and DataArray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import xarray as xr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dask.delayed import Delayed
    from zarr.abc.store import Store

    from s2sr_xr.cut import Ground, SupportsGeoInterface

__all__ = ["DataArrayAccessor", "DataTreeAccessor", "DatasetAccessor"]

Obj = TypeVar("Obj", xr.DataTree, xr.Dataset, xr.DataArray)


class Accessor(Generic[Obj]):
    """Sentinel-2 super-resolution on an xarray object.

    Stateless: everything is an argument, what was done stands in the result's attrs.
    """

    def __init__(self, obj: Obj) -> None:
        self._obj: Obj = obj

    def upsample(
        self,
        model: str | Mapping[str, str] = "dsen2",
        *,
        bands: Sequence[str] | None = None,
        keep_native: bool = True,
        device: str = "auto",
        precision: str = "float32",
        batch: int | None = None,
        check: bool = True,
    ) -> xr.Dataset:
        """Return the 20 m and 60 m bands at 10 m; see `s2sr_xr.upsample`."""
        from s2sr_xr.finer import upsample

        return upsample(
            self._obj,
            model,
            bands=bands,
            keep_native=keep_native,
            device=device,
            precision=precision,
            batch=batch,
            check=check,
        )

    def superresolve(
        self,
        model: str | None = None,
        *,
        bands: Sequence[str] | None = None,
        device: str = "auto",
        precision: str = "float32",
        batch: int | None = None,
        check: bool = True,
    ) -> xr.Dataset:
        """Return bands on pixels finer than 10 m; see `s2sr_xr.superresolve`."""
        from s2sr_xr.finer import superresolve

        return superresolve(
            self._obj,
            model,
            bands=bands,
            device=device,
            precision=precision,
            batch=batch,
            check=check,
        )

    def decode(self, *, offset: float, scale: float = 1e-4) -> Obj:
        """Return counts as reflectance; see `s2sr_xr.decode`."""
        from s2sr_xr.finer import decode

        return decode(self._obj, offset=offset, scale=scale)

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
        from s2sr_xr.cut import window

        return window(self._obj, bbox=bbox, geometry=geometry, x=x, y=y, crs=crs)


@xr.register_datatree_accessor("s2sr")
class DataTreeAccessor(Accessor[xr.DataTree]):
    """Super-resolution on a tree with groups ``r10m``, ``r20m``, ``r60m``."""


@xr.register_dataarray_accessor("s2sr")
class DataArrayAccessor(Accessor[xr.DataArray]):
    """Super-resolution on an array with dims ``(time, band, y, x)``."""


@xr.register_dataset_accessor("s2sr")
class DatasetAccessor(Accessor[xr.Dataset]):
    """Super-resolution on a Dataset on one 10 m grid, and what is done with results."""

    def to_zarr(
        self,
        store: str | Path | Store,
        *,
        mode: Literal["w-", "w"] = "w-",
        compute: bool = True,
    ) -> Delayed | None:
        """Write a result to a Zarr store; see `s2sr_xr.to_zarr`."""
        from s2sr_xr.output import to_zarr

        return to_zarr(self._obj, store, mode=mode, compute=compute)
