"""Where a block reads the pixels of a band: anything with `read`, or an array."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from s2sr_xr.errors import S2SRWarning

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

__all__ = ["ArrayPixels", "Pixels", "sample"]


class Pixels(Protocol):
    """Where the native pixels of one band come from."""

    def read(self, time: int, rows: slice, cols: slice) -> NDArray[np.float32]:
        """Return a window as float32, NaN where nothing was recorded."""


@dataclass(frozen=True, slots=True)
class ArrayPixels:
    """The native pixels of a band in a NumPy or lazily indexed variable."""

    variable: xr.Variable
    """Dims ``(time, y, x)`` or ``(y, x)``."""

    repeat: int
    """Pixels of `variable` along the side of a native one."""

    band: str
    """Whose they are, for the warning."""

    def read(self, time: int, rows: slice, cols: slice) -> NDArray[np.float32]:
        """Return a window of native pixels."""
        k = self.repeat
        window = tuple(slice(s.start * k, s.stop * k) for s in (rows, cols))
        key = window if self.variable.ndim == 2 else (time, *window)
        return sample(self.variable[key].to_numpy(), k, self.band)


def sample(values: NDArray[Any], k: int, band: str) -> NDArray[np.float32]:
    """Return one sample of each k x k cell, warning where a cell is not constant."""
    values = values.astype(np.float32, copy=False)
    if k == 1:
        return values
    one = values[::k, ::k]
    if not np.array_equal(one.repeat(k, 0).repeat(k, 1), values, equal_nan=True):
        warnings.warn(
            f"{band} is not constant within its native pixels: the cube was "
            "interpolated when it was loaded. The result is made from one sample of "
            "each; load it with nearest neighbour, or at its native resolution.",
            S2SRWarning,
            stacklevel=2,
        )
    return one
