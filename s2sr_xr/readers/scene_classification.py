"""The scene classification of L2A products over time, and the flags that it implies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from s2sr_xr.core.nodata import DEFECT
from s2sr_xr.core.token_parts import token_parts
from s2sr_xr.readers.fetch.window import read_window
from s2sr_xr.readers.place import CLASSES
from s2sr_xr.readers.tree import Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2sr_xr.readers.fetch.asset import Asset
    from s2sr_xr.readers.tree import Image

__all__ = ["ClassFlags", "ClassSource", "class_layers"]

MEANINGS = (
    "no_data saturated_or_defective dark_area_pixels cloud_shadows vegetation "
    "not_vegetated water unclassified cloud_medium_probability cloud_high_probability "
    "thin_cirrus snow"
)
"""What the codes 0 to 11 mean (ESA, Sentinel-2 Level-2A ATBD)."""

DEFECTIVE = 1
"""Code of a pixel that is saturated or defective: which, it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSource:
    """Codes as they are stored."""

    assets: tuple[Asset, ...]
    """One image a time step, all of one known shape."""

    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return token_parts(self.band, 1, self.assets)

    @property
    def band(self) -> str:
        """What the variable is called."""
        return CLASSES

    @property
    def shape(self) -> tuple[int, int, int]:
        """Time steps, rows and columns."""
        rows, cols = self.assets[0].shape or (0, 0)
        return len(self.assets), rows, cols

    def at(self, time: int) -> Self:
        """Return the source of one time step alone."""
        return type(self)(assets=(self.assets[time],))

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window of codes as uint8; see `Source.read`."""
        codes = read_window(self.assets[time], rows, cols)
        if codes.dtype != self.dtype:
            raise self.assets[time].error(
                f"holds {codes.dtype} where uint8 was expected"
            )
        return codes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFlags(ClassSource):
    """Flags instead of codes: `DEFECT` where a pixel is saturated or defective."""

    @property
    def band(self) -> str:
        """What the variable is called."""
        return "flags"

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window of flags as uint8; see `ClassSource`."""
        codes = ClassSource.read(self, time, rows, cols)
        return np.where(codes == DEFECTIVE, np.uint8(DEFECT), np.uint8(0))


def class_layers(images: Sequence[Image]) -> list[Layer]:
    """Return ``SCL`` and ``flags``, one image a time step."""
    assets, grid = tuple(image.asset for image in images), images[0].grid
    return [
        Layer(CLASSES, ClassSource(assets=assets), grid, _CLASS_ATTRS),
        Layer("flags", ClassFlags(assets=assets), grid, _FLAG_ATTRS),
    ]


_CLASS_ATTRS = {
    "long_name": "scene classification",
    "flag_values": list(range(12)),
    "flag_meanings": MEANINGS,
}
_FLAG_ATTRS = {
    "long_name": "what the scene classification says of the pixels",
    "flag_masks": [DEFECT],
    "flag_meanings": "product_defect",
}
