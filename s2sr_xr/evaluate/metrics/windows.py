"""Likeness of windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.errors import GridError
from s2sr_xr.evaluate.metrics.arrays import check_peak, checked, plain, ratio, strips

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["ssim", "uiq"]

FLAT = 64 * np.finfo(np.float64).eps
"""Variance over mean square below which a window is flat: what rounding leaves of the
difference of two sums. It is a standard deviation of 1e-7 of the mean, one step of
float32."""


def uiq(pred: ArrayLike, truth: ArrayLike, *, window: int = 8) -> Floats:
    """Return the universal image quality index of each band.

    The product of what two windows share in luminance, contrast and structure, averaged
    over all windows of equal weights, one a pixel. Where both windows are flat their
    contrast and structure are equal (factor 1), and where both have mean 0 so is their
    luminance; the authors' program does the same for flat windows.

    Parameters
    ----------
    pred, truth
        (..., H, W), any unit. Windows that touch a NaN are left out.
    window
        Side of a window, in pixels. 8 is what Wang and Bovik use; the DSen2 paper
        names no size; toolboxes for pan-sharpening often use 32. Scores of different
        sizes do not compare.

    Returns
    -------
    np.ndarray
        (...), -1 to 1; symmetric, and unchanged if both arrays are scaled alike.

    Raises
    ------
    GridError
        If the shapes differ, or the arrays are empty, no images, or smaller than the
        window.
    RadiometryError
        If a value is infinite.

    References
    ----------
    Wang and Bovik (2002), A universal image quality index, IEEE SPL 9(3), eq. 1.
    """
    if window < 2:
        raise GridError(f"A window with a variance has 2 pixels or more, got {window}")
    return _mean_over_windows(
        *checked(pred, truth), np.full(window, 1 / window), _universal_quality
    )


def ssim(pred: ArrayLike, truth: ArrayLike, *, peak: float = 1.0) -> Floats:
    """Return the mean structural similarity of each band.

    Whole Gaussian windows of 11 x 11 pixels, standard deviation 1.5, K1 = 0.01, K2 =
    0.03 and variances over N: the numbers of ``structural_similarity(...,
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`` in scikit-image.

    Parameters
    ----------
    pred, truth
        (..., H, W), any unit. Windows that touch a NaN are left out.
    peak
        The brightest value there can be, in the unit of the pixels. 1.0 is full
        reflectance; counts need their own.

    Returns
    -------
    np.ndarray
        (...), -1 to 1; symmetric.

    Raises
    ------
    GridError
        If the shapes differ, or the arrays are empty, no images, or smaller than a
        window.
    RadiometryError
        If a value is infinite, or `peak` is not positive.

    References
    ----------
    Wang et al. (2004), Image quality assessment, IEEE TIP 13(4), eq. 13-17.
    """
    check_peak(peak)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    bell = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)

    def similarity(x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats) -> Floats:
        top = (2 * x * y + c1) * (2 * (xy - x * y) + c2)
        return top / ((x * x + y * y + c1) * ((xx - x * x) + (yy - y * y) + c2))

    return _mean_over_windows(*checked(pred, truth), bell / bell.sum(), similarity)


def _universal_quality(
    x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats
) -> Floats:
    """Return the index of each window from its means and mean products."""
    variance = (xx - x * x) + (yy - y * y)
    flat = variance <= FLAT * (xx + yy)
    dark = x * x + y * y == 0
    variance[flat] = np.inf  # the quotient is replaced below
    structure = np.where(flat, 1.0, 2 * (xy - x * y) / variance)
    luminance = np.where(dark, 1.0, 2 * x * y / np.where(dark, 1.0, x * x + y * y))
    return structure * luminance


def _mean_over_windows(
    pred: NDArray[Any],
    truth: NDArray[Any],
    taps: Floats,
    score: Callable[[Floats, Floats, Floats, Floats, Floats], Floats],
) -> Floats:
    """Return the mean of `score` over all windows with the weights `taps` x `taps`.

    `score` takes the weighted means of x, y, x * x, y * y and x * y.
    """
    side = len(taps)
    if min(pred.shape[-2:]) < side:
        raise GridError(
            f"An image of {pred.shape[-2]} x {pred.shape[-1]} pixels holds no window "
            f"of {side} x {side}; score a larger one"
        )
    total = np.zeros(pred.shape[:-2])
    count = np.zeros(pred.shape[:-2])
    for image in np.ndindex(total.shape):
        for x, y in strips(pred[image], truth[image], overlap=side - 1):
            fields = (x, y, x * x, y * y, x * y)
            # Sums of shifted slices: a NaN stays in the windows that touch it.
            scores = score(*(_windows(f, taps) for f in fields))
            there = ~np.isnan(scores)
            total[image] += scores[there].sum()
            count[image] += there.sum()
    return plain(ratio(total, count))


def _windows(field: Floats, taps: Floats) -> Floats:
    """Return the weighted mean of every whole window of a 2-D array."""
    rows, cols = (n - len(taps) + 1 for n in field.shape)
    tall = taps[0] * field[:rows]
    for i, tap in enumerate(taps[1:], 1):
        tall += tap * field[i : i + rows]
    means: Floats = taps[0] * tall[:, :cols]
    for i, tap in enumerate(taps[1:], 1):
        means += tap * tall[:, i : i + cols]
    return means
