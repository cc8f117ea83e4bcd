"""Whether a patch is cloudy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["CLOUDS", "cloudy"]

CLOUDS = (1, 3, 8, 9, 10)
"""Codes of the scene classification that a patch may hold little of."""


def cloudy(
    bands: dict[str, NDArray[np.float32]], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return which pixels are bright, white and neither sand nor snow.

    Parameters
    ----------
    bands
        Reflectance of B02, B04 and B11, each of `shape`. Without B11, sand that is
        white and snow count as cloud; without B02, nothing does.
    shape
        Rows and columns.
    """
    if "B02" not in bands:
        return np.zeros(shape, bool)
    blue = bands["B02"]
    found = blue > 0.25
    if "B04" in bands:
        found &= np.abs(bands["B04"] - blue) < 0.3 * blue
    if "B11" in bands:
        found &= (bands["B11"] > 0.35 * blue) & (bands["B11"] < 1.1 * blue)
    return np.asarray(found)
