"""What a source of pixels offers: any window of any time step."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["DIMS", "Source", "dtype_of"]

DIMS = ("time", "y", "x")


@runtime_checkable
class Source(Protocol):
    """Where the pixels of one band come from, at every time step."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Time steps, rows and columns."""

    def at(self, time: int) -> Source:
        """Return the source of one time step alone: what a task carries."""

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window of one time step.

        Parameters
        ----------
        time
            Index of the time step.
        rows, cols
            Pixels inside the image, not empty, step 1.

        Returns
        -------
        np.ndarray
            Of shape ``(rows, cols)``: float32 reflectance, 1.0 = full, negative values
            kept, NaN where there is no data. A source of something else than a band has
            an attribute `dtype` that says so.

        Raises
        ------
        ReadError
            The pixels could not be read.
        GridError
            The file is not the image that the catalogue or the metadata describe.
        """


def dtype_of(source: Source) -> np.dtype[Any]:
    """Return what a source reads: float32, unless it or what it is a part of says."""
    part: Any = source
    while part is not None and not hasattr(part, "dtype"):
        part = getattr(part, "source", None)
    return np.dtype(getattr(part, "dtype", np.float32))
