"""A band over time as xarray sees it: lazy, and known to whoever can read it better.

A `Source` reads any window of any time step. `as_variable` shows it to xarray, either
lazily indexed or as a Dask array whose graph is one `SourceLayer`; `source_of` finds
the source behind such an array while nothing has been done to it, so that a block task
can read its own window instead of whole chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from s2sr_xr.core.reflectance import decode
from s2sr_xr.core.token_parts import token_parts
from s2sr_xr.errors import GridError
from s2sr_xr.readers.fetch.source_protocol import DIMS, Source, dtype_of
from s2sr_xr.readers.fetch.window import read_window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from s2sr_xr.core.reflectance import Radiometry
    from s2sr_xr.readers.fetch.asset import Asset

__all__ = [
    "BandSource",
    "Crop",
    "SourceArray",
    "as_variable",
    "source_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BandSource:
    """One band of several items on one grid, decoded to reflectance as it is read."""

    assets: tuple[Asset, ...]
    """One image a time step, all of the same band and shape."""

    radiometry: tuple[Radiometry, ...]
    """What the counts of each image mean."""

    def __post_init__(self) -> None:
        if not self.assets or len(self.assets) != len(self.radiometry):
            raise ValueError(
                f"One radiometry an image, and one image at least: got "
                f"{len(self.radiometry)} for {len(self.assets)}"
            )
        shapes = {a.shape for a in self.assets}
        if len(shapes) > 1 or None in shapes:
            raise GridError(
                f"The images of {self.band} have the shapes {shapes}; one known shape "
                "is needed. Open them one grid at a time."
            )

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return token_parts("band-source", 1, self.assets, self.radiometry)

    @property
    def band(self) -> str:
        """ESA's identifier of the band."""
        return self.assets[0].band

    @property
    def shape(self) -> tuple[int, int, int]:
        """Time steps, rows and columns."""
        rows, cols = self.assets[0].shape or (0, 0)
        return len(self.assets), rows, cols

    def at(self, time: int) -> Self:
        """Return the source of one time step alone."""
        one = slice(time, time + 1) if time >= 0 else slice(time, time + 1 or None)
        return type(self)(assets=self.assets[one], radiometry=self.radiometry[one])

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window as reflectance; see `Source.read`."""
        return decode(read_window(self.assets[time], rows, cols), self.radiometry[time])


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A part of a source, counted from its own first pixel.

    A slice of a Dask array computes the whole chunks that it meets, and hides the
    source; a part shown by `as_variable` reads its own windows.
    """

    source: Source
    """What it is a part of."""

    rows: tuple[int, int]
    """First row of the source, and one past the last."""

    cols: tuple[int, int]
    """First column of the source, and one past the last."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return token_parts("crop", 1, self.source, self.rows, self.cols)

    @property
    def band(self) -> str:
        """ESA's identifier of the band."""
        return str(getattr(self.source, "band", type(self.source).__name__))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Time steps, rows and columns."""
        (top, bottom), (left, right) = self.rows, self.cols
        return self.source.shape[0], bottom - top, right - left

    def at(self, time: int) -> Self:
        """Return the part of one time step alone."""
        return replace(self, source=self.source.at(time))

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window of the part as the whole source gives it."""
        (top, _), (left, _) = self.rows, self.cols
        return self.source.read(
            time,
            slice(rows.start + top, rows.stop + top),
            slice(cols.start + left, cols.stop + left),
        )


def as_variable(
    source: Source,
    chunk: int | None,
    attrs: Mapping[str, Any],
    *,
    timed: bool = True,
) -> xr.Variable:
    """Return a source as a variable; nothing is read.

    Parameters
    ----------
    source
        Where the pixels come from.
    chunk
        Side of a Dask chunk in the source's own pixels, one time step each; None for a
        lazily indexed variable without Dask.
    attrs
        Attributes of the variable.
    timed
        Whether the variable has a time; without it, it shows the first step.

    Returns
    -------
    xr.Variable
        float32, or the source's own type, dims ``(time, y, x)``, or ``(y, x)``, NaN
        where there is no data.
    """
    dims = DIMS if timed else DIMS[1:]
    if chunk is None:
        lazy = indexing.LazilyIndexedArray(SourceArray(source, timed=timed))
        return xr.Variable(dims, lazy, dict(attrs))
    from s2sr_xr.readers.fetch.dask_source import dask_array

    return xr.Variable(dims, dask_array(source, chunk, timed=timed), dict(attrs))


def source_of(data: object) -> Source | None:
    """Return the source behind an array of `as_variable`, None if it was changed.

    Parameters
    ----------
    data
        A Dask array, or the variable that holds the array. The data of a lazily
        indexed variable are read as soon as they are asked for; give the variable.
    """
    if isinstance(data, xr.Variable | xr.DataArray):
        data = (data.variable if isinstance(data, xr.DataArray) else data)._data  # noqa: SLF001 - .data reads
    if isinstance(data, indexing.LazilyIndexedArray):
        return _whole(data)
    # A layer remembers its source through pickling, slices and sums do not; a persisted
    # or optimised array keeps its name and loses the layer.
    layers = getattr(getattr(data, "dask", None), "layers", {})
    found = getattr(layers.get(getattr(data, "name", None)), "source", None)
    return found if isinstance(found, Source) else None


def _whole(lazy: indexing.LazilyIndexedArray) -> Source | None:
    """Return the source of a lazily indexed array of ours that was not indexed."""
    inner = lazy.array
    if not isinstance(inner, SourceArray):
        return None
    keys = zip(lazy.key.tuple, inner.shape, strict=True)
    kept = all(isinstance(k, slice) and k.indices(n) == (0, n, 1) for k, n in keys)
    return inner.source if kept else None


class SourceArray(BackendArray):
    """A source behind xarray's lazy indexing."""

    def __init__(self, source: Source, *, timed: bool = True) -> None:
        self.source = source
        self.shape: tuple[int, ...] = source.shape if timed else source.shape[1:]
        self.dtype = dtype_of(source)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:  # noqa: ANN401 - xarray's
        # xarray 2026.9 fails on empty slices with a negative step.
        pairs = zip(key.tuple, self.shape, strict=True)
        plain = type(key)(tuple(_forward_if_empty(k, n) for k, n in pairs))
        support = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(
            plain, self.shape, support, self._read
        )

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        """Read the window that holds the wanted pixels, then step inside it."""
        ranges = [
            range(n)[_as_slice(k, n)] for k, n in zip(key, self.shape, strict=True)
        ]
        result = np.empty([len(r) for r in ranges], self.dtype)
        if result.size:
            *times, rows, cols = ranges
            steps = result if times else result[None]
            for i, time in enumerate(times[0] if times else [0]):
                window = self.source.read(time, _span(rows), _span(cols))
                steps[i] = window[:: rows.step, :: cols.step]
        dropped = tuple(0 if not isinstance(k, slice) else slice(None) for k in key)
        return result[dropped]


def _forward_if_empty(key: Any, size: int) -> Any:  # noqa: ANN401 - int, slice, array
    empty = isinstance(key, slice) and not range(size)[key]
    return slice(0, 0) if empty else key


def _as_slice(key: int | slice, size: int) -> slice:
    """Return an index as a slice of one."""
    if isinstance(key, slice):
        return key
    start = range(size)[key]
    return slice(start, start + 1)


def _span(wanted: range) -> slice:
    """Return the window from the first to the last of ascending indices."""
    return slice(wanted[0], wanted[-1] + 1)
