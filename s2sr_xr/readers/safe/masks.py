"""What a SAFE product says of its pixels: quality flags and the scene classification.

From baseline 04.00 on there is one raster mask a band, on the band's own pixels, with
eight layers, in this order: ancillary data lost, ancillary data degraded, MSI data
lost, MSI data degraded, defective, no data, partially corrected for cross-talk,
saturated. They are computed in sensor geometry, so pixels outside the swath are not
flagged (Copernicus Data Space forum, thread 1376).

References
----------
SNAP, opttbx-s2msi-reader, MaskInfo148: names and order of the layers.
NASA-IMPACT/hls-sentinel, esa_quality_mask.c: eight layers, the band's own pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from s2sr_xr.core.nodata import DEFECT, SATURATED
from s2sr_xr.core.token_parts import token_parts
from s2sr_xr.readers.fetch.window import check_window, use_image

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from s2sr_xr.readers.fetch.asset import Asset

__all__ = ["LAYERS", "QualityMasks"]

LAYERS = 8
"""Layers of a quality mask; the last one is saturation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityMasks:
    """The quality masks of bands on one grid, as one image of flags."""

    masks: tuple[Asset, ...]
    """One mask a band, all of one known shape."""

    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return token_parts("quality-masks", 1, self.masks)

    @property
    def band(self) -> str:
        """What the variable is called."""
        return "flags"

    @property
    def shape(self) -> tuple[int, int, int]:
        """One time step, rows and columns."""
        rows, cols = self.masks[0].shape or (0, 0)
        return 1, rows, cols

    def at(self, time: int) -> Self:
        """Return the source of the one time step."""
        assert time in (0, -1)
        return self

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window as uint8: `SATURATED` and `DEFECT` where any mask says so."""
        assert time in (0, -1)
        flags = np.zeros((rows.stop - rows.start, cols.stop - cols.start), np.uint8)
        for mask in self.masks:
            layers = _read_layers(mask, rows, cols) != 0
            flags |= np.uint8(SATURATED) * layers[-1]
            flags |= np.uint8(DEFECT) * layers[:-1].any(0)
        return flags


def _read_layers(mask: Asset, rows: slice, cols: slice) -> np.ndarray:
    """Return a window of all layers of a mask, opened once: ``(LAYERS, rows, cols)``.

    Eight calls of `read_window` would open, and decode, the file eight times.
    """

    def layers(dataset: DatasetReader) -> np.ndarray:
        if dataset.count != LAYERS:
            raise mask.error(f"has {dataset.count} layers, {LAYERS} were expected")
        check_window(rows, cols, dataset.shape)
        shape = (LAYERS, rows.stop - rows.start, cols.stop - cols.start)
        found = np.zeros(shape, dataset.dtypes[0])
        window = ((rows.start, rows.stop), (cols.start, cols.stop))
        dataset.read(window=window, out=found)
        return found

    part = f"rows {rows.start}:{rows.stop}, cols {cols.start}:{cols.stop}"
    return use_image(mask, layers, part)
