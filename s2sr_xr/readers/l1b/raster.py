"""The raster of one detector in one band: granules stacked by line, lazily.

In two dimensions, unlike the images of `source`: a detector sees a place once. As
there, `source_of` finds the source behind a lazily indexed or a Dask array of these.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from s2sr_xr.core.tiling import Span
from s2sr_xr.core.token_parts import token_parts
from s2sr_xr.readers.fetch.source import source_of
from s2sr_xr.readers.fetch.window import read_window

if TYPE_CHECKING:
    import xarray as xr

    from s2sr_xr.readers.fetch.asset import Asset

__all__ = ["DetectorSource", "Part", "pixels", "quiet"]

_ORIGIN = Span(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The image of one granule in the raster of its detector."""

    first: int
    """Row of the raster where its first line lies."""

    asset: Asset
    """The image, its shape known."""

    @property
    def rows(self) -> Span:
        """The rows of the raster that it covers."""
        assert self.asset.shape is not None
        return Span(self.first, self.first + self.asset.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSource:
    """One band of one detector: counts as recorded, in one piece."""

    parts: tuple[Part, ...]
    """Granules from the first line on; they do not overlap, but may leave gaps."""

    lines: int
    """Rows of the raster."""

    samples: int
    """Columns of the raster."""

    nodata: int = 0
    """Count that marks a missing pixel."""

    shift: tuple[int, int] = (0, 0)
    """Rows and columns by which the image is moved down and to the right."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        parts = tuple((p.first, p.asset) for p in self.parts)
        shape = (self.lines, self.samples)
        return token_parts("detector", 1, parts, shape, self.nodata, self.shift)

    @property
    def band(self) -> str:
        """ESA's identifier of the band."""
        return self.parts[0].asset.band

    @property
    def shape(self) -> tuple[int, int, int]:
        """One time step, rows and columns."""
        return 1, self.lines, self.samples

    def at(self, time: int) -> Self:  # noqa: ARG002 - there is one step
        """Return the source itself."""
        return self

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:  # noqa: ARG002
        """Return a window of counts as float32; see `Source.read`.

        NaN at the no-data count, between granules, and where the shift has moved the
        image away.
        """
        quiet()
        down, right = self.shift
        lines = Span(rows.start, rows.stop).shift(-down)
        samples = Span(cols.start, cols.stop).shift(-right)
        window = np.full((len(lines), len(samples)), np.nan, np.float32)
        there = samples.meet(Span(0, self.samples))
        for part in self.parts:
            seen = lines.meet(part.rows)
            if there is not None and seen is not None:
                counts = read_window(
                    part.asset, seen.slice_in(part.rows), there.slice_in(_ORIGIN)
                )
                values = counts.astype(np.float32)
                np.copyto(values, np.nan, where=counts == self.nodata)
                window[seen.slice_in(lines), there.slice_in(samples)] = values
        return window


def pixels(array: xr.DataArray, rows: slice, cols: slice) -> np.ndarray:
    """Return a window of a band in memory; of our own arrays, no more is read.

    A slice of a Dask array would compute the whole chunks that it meets.

    Parameters
    ----------
    array
        Dims ``(y, x)``, of any backing.
    rows, cols
        Pixels of the array, not empty, step 1.
    """
    source = source_of(array.variable)
    if source is not None:
        return source.read(0, rows, cols)
    return array[rows, cols].to_numpy()


def quiet() -> None:
    """Stop rasterio from warning that an image has no place on the map.

    Sensor geometry has none. The filter is put in place once and stays: a temporary one
    is not safe between threads.
    """
    from rasterio.errors import NotGeoreferencedWarning

    if not any(
        f[0] == "ignore" and f[2] is NotGeoreferencedWarning for f in warnings.filters
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
