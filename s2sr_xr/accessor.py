"""``.s2sr`` on DataTree, Dataset and DataArray: the functions, as methods."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import xarray as xr

from s2sr_xr.core.decode import decode
from s2sr_xr.engine.api import register, superresolve, upsample
from s2sr_xr.engine.plan import plan
from s2sr_xr.output.cog import to_cog
from s2sr_xr.output.to_zarr import to_zarr
from s2sr_xr.readers.crop import window
from s2sr_xr.train.finetune import finetune

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DataArrayAccessor", "DataTreeAccessor", "DatasetAccessor"]

P = ParamSpec("P")
R = TypeVar("R")


class Method(Generic[P, R]):
    """A function whose first argument is the object that has the accessor.

    Its signature and its docstring are the method's: nothing is said in two places.
    """

    def __init__(self, function: Callable[Concatenate[Any, P], R]) -> None:
        self.function = function

    def __get__(self, accessor: Accessor | None, owner: type) -> Callable[P, R]:
        """Return the function for the object of an accessor; for the class, itself."""
        if accessor is None:
            return self.function  # type: ignore[return-value]  # with the object first
        return MethodType(self.function, accessor._obj)  # noqa: SLF001 - ours


class Accessor:
    """Sentinel-2 super-resolution on an xarray object.

    Stateless: everything is an argument; attrs of the result say what was done.
    """

    def __init__(self, obj: xr.DataTree | xr.Dataset | xr.DataArray) -> None:
        self._obj = obj

    upsample = Method(upsample)
    superresolve = Method(superresolve)
    decode = Method(decode)
    finetune = Method(finetune)
    window = Method(window)


@xr.register_datatree_accessor("s2sr")
class DataTreeAccessor(Accessor):
    """Super-resolution on a tree with groups ``r10m``, ``r20m``, ``r60m``, or L1B."""

    register = Method(register)


@xr.register_dataarray_accessor("s2sr")
class DataArrayAccessor(Accessor):
    """Super-resolution on an array with dims ``(time, band, y, x)``."""


@xr.register_dataset_accessor("s2sr")
class DatasetAccessor(Accessor):
    """Super-resolution on a Dataset on one 10 m grid, and what is done with results."""

    register = Method(register)
    plan = Method(plan)
    to_zarr = Method(to_zarr)
    to_cog = Method(to_cog)
