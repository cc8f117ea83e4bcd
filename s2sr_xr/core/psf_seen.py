"""What a coarse pixel sees of fine ones, in NumPy: Gaussian, shift and pixel.

The same Gaussian as `degrade`'s: sampled at pixel centres. Where a shift is asked for,
it is Lanczos' kernel of eight pixels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["power", "seen"]

LOBES = 4
"""Of Lanczos' kernel."""


def seen(
    image: Floats, width: float, factor: int, shift: tuple[float, float] = (0.0, 0.0)
) -> Floats:
    """Return what coarse pixels see of an image.

    Parameters
    ----------
    image
        ``(..., h * factor, w * factor)``, any unit; a NaN spreads to who sees it.
    width
        Standard deviation of Gaussian and pixel along a line, in fine pixels.
    factor
        Fine pixels along the side of a coarse one.
    shift
        Fine pixels down and to the right where the coarse pixels look.

    Returns
    -------
    NDArray
        ``(..., h, w)``. Beyond the edge the image is mirrored.

    >>> seen(np.arange(8.0).reshape(1, 8).repeat(8, 0), 0.5, 2)[0].round(3)
    array([0.5, 2.5, 4.5, 6.5])
    """
    for axis, by in zip((-2, -1), shift, strict=True):
        image = _along(image, *_taps(width, factor, by), factor, axis)
    return image


def power(width: float, factor: int) -> float:
    """Return the variance that white noise of variance 1 has where it is seen."""
    taps, _ = _taps(width, factor, 0.0)
    return float(taps @ taps) ** 2


def _taps(width: float, factor: int, shift: float) -> tuple[Floats, int]:
    """Return the weights along a line, and where the first lies beside the pixel's."""
    radius = 2 * factor
    sigma = math.sqrt(max(width**2 - (factor**2 - 1) / 12, 1e-6))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps = np.convolve(taps / taps.sum(), np.full(factor, 1 / factor))
    if not shift:
        return taps, -radius
    whole = math.floor(shift)
    at = np.arange(1 - LOBES, LOBES + 1) - (shift - whole)
    between = np.sinc(at) * np.sinc(at / LOBES)
    return np.convolve(taps, between / between.sum()), whole - radius + 1 - LOBES


def _along(x: Floats, taps: Floats, first: int, factor: int, axis: int) -> Floats:
    """Return weighted sums of pixels along an axis, one a coarse pixel."""
    size = x.shape[axis]
    last = (size // factor - 1) * factor
    before, after = max(-first, 0), max(last + first + len(taps) - size, 0)
    ends = [(0, 0)] * x.ndim
    ends[axis] = (before, after)
    padded = np.moveaxis(np.pad(x, ends, mode="symmetric"), axis, 0)
    start = first + before
    made = np.zeros((size // factor, *padded.shape[1:]))
    for n, tap in enumerate(taps, start):
        made += tap * padded[n : n + last + 1 : factor]
    return np.moveaxis(made, 0, axis)
