"""Reflectance of digital numbers: what they mean, and the arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2sr_xr.core.token_parts import token_parts
from s2sr_xr.errors import RadiometryError

__all__ = ["REMEDY", "SCALE", "Radiometry", "decode"]

SCALE = 1e-4
"""Reflectance of one count in every Sentinel-2 product."""


REMEDY = 'give radiometry={"offset": -1000} (or 0)'


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiometry:
    """How counts become reflectance, and who says so."""

    scale: float = SCALE
    """Reflectance of one count."""

    offset: float
    """Added to the count before scaling: -1000 from processing baseline 04.00 on."""

    nodata: int = 0
    """Count that marks a missing pixel."""

    source: str
    """Who says so: ``"raster:bands"``, ``"s2:processing_baseline"``, ``"user"`` ..."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise RadiometryError(
                f"A scale is a positive number, got {self.scale!r} from {self.source}; "
                f"{REMEDY}."
            )
        if not math.isfinite(self.offset):
            raise RadiometryError(
                f"An offset is a finite number of counts, got {self.offset!r} from "
                f"{self.source}; {REMEDY}."
            )

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # Who said so decides nothing.
        return token_parts("radiometry", 1, self.scale, self.offset, self.nodata)

    def __str__(self) -> str:
        scale = "" if self.scale == SCALE else f", scale {self.scale:g}"
        return f"{self.offset:g}{scale}, from {self.source}"


def decode(counts: np.ndarray, radiometry: Radiometry) -> np.ndarray:
    """Turn counts into reflectance.

    Parameters
    ----------
    counts
        Integers of any shape, as stored in the product.
    radiometry
        What they mean.

    Returns
    -------
    np.ndarray
        float32 of the same shape, 1.0 = full reflectance, negative values kept, NaN
        where the count is no-data.

    Raises
    ------
    RadiometryError
        The counts are not integers: they were decoded before.

    >>> from_baseline_4 = Radiometry(offset=-1000, source="user")
    >>> decode(np.array([0, 500, 1234], "uint16"), from_baseline_4)
    array([    nan, -0.05  ,  0.0234], dtype=float32)
    """
    if counts.dtype.kind not in "iu":
        raise RadiometryError(
            f"Counts are integers, got {counts.dtype}: they were decoded already."
        )
    # In place: 3.4 ms for 2196 x 2196; a table of 65536 values took 5.6 ms.
    reflectance = counts.astype(np.float32)
    reflectance += np.float32(radiometry.offset)
    per_unit = round(1 / radiometry.scale)
    if math.isclose(1 / radiometry.scale, per_unit, rel_tol=1e-9):
        # A division rounds once; 1e-4 itself is not a binary number.
        reflectance /= np.float32(per_unit)
    else:
        reflectance *= np.float32(radiometry.scale)
    np.copyto(reflectance, np.nan, where=counts == radiometry.nodata)
    return reflectance
