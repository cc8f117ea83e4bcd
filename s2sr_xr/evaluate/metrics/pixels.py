"""Errors of pixels and angles of spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.evaluate.metrics.arrays import check_peak, checked, plain, ratio, strips

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["psnr", "rmse", "sam", "sre"]


def rmse(pred: ArrayLike, truth: ArrayLike) -> Floats:
    """Return the root mean squared error of each band, in the unit of the pixels.

    Parameters
    ----------
    pred, truth
        (..., H, W), any unit; NaN is left out.

    Returns
    -------
    np.ndarray
        (...), 0 or more; a ``np.float64`` for one image.

    Raises
    ------
    GridError
        If the shapes differ, or the arrays are empty or no images.
    RadiometryError
        If a value is infinite.

    References
    ----------
    Lanaras et al. (2018), Super-resolution of Sentinel-2 images, ISPRS J. 146, eq. 6.

    >>> float(rmse([[1.0, 2.0]], [[4.0, 5.0]]))
    3.0
    """
    mse, _ = _error_and_signal(*checked(pred, truth))
    return plain(np.sqrt(mse))


def sre(pred: ArrayLike, truth: ArrayLike) -> Floats:
    """Return the signal to reconstruction error ratio of each band, in dB.

    The square of the mean of the truth over the mean squared error, so that dark and
    bright scenes compare. Not the ratio of powers (mean of the square) of other papers.

    Parameters
    ----------
    pred, truth
        (..., H, W), any unit; NaN is left out. Not symmetric: the signal is `truth`.

    Returns
    -------
    np.ndarray
        (...); ``inf`` for a perfect prediction, ``-inf`` where the truth has mean 0 and
        the prediction is wrong, NaN where the truth has mean 0 and it is right.

    Raises
    ------
    GridError
        If the shapes differ, or the arrays are empty or no images.
    RadiometryError
        If a value is infinite.

    References
    ----------
    Lanaras et al. (2018), Super-resolution of Sentinel-2 images, ISPRS J. 146, eq. 7.

    >>> float(sre([[11.0, 9.0]], [[10.0, 10.0]]))
    20.0
    """
    mse, mean = _error_and_signal(*checked(pred, truth))
    return _decibel(np.square(mean), mse)


def psnr(pred: ArrayLike, truth: ArrayLike, *, peak: float = 1.0) -> Floats:
    """Return the peak signal to noise ratio of each band, in dB.

    Parameters
    ----------
    pred, truth
        (..., H, W), any unit; NaN is left out.
    peak
        The brightest value there can be, in the unit of the pixels. 1.0 is full
        reflectance; counts need their own.

    Returns
    -------
    np.ndarray
        (...); ``inf`` for a perfect prediction.

    Raises
    ------
    GridError
        If the shapes differ, or the arrays are empty or no images.
    RadiometryError
        If a value is infinite, or `peak` is not positive.

    >>> float(psnr([[0.5, 0.0]], [[0.4, 0.1]]).round(6))
    20.0
    """
    check_peak(peak)
    mse, _ = _error_and_signal(*checked(pred, truth))
    return _decibel(np.full_like(mse, peak**2), mse)


def sam(pred: ArrayLike, truth: ArrayLike) -> Floats:
    """Return the mean angle between predicted and true spectra, in degrees.

    The angle of each pixel is taken first, then the mean over the image. It comes from
    the chord and not from the arc cosine, which cannot tell angles below 1e-6 degrees
    from 0.

    Parameters
    ----------
    pred, truth
        (..., B, H, W): the bands of a spectrum on axis -3, all in one unit. A pixel is
        left out if any of its bands is NaN, or if either spectrum is all zero, as it
        then has no direction.

    Returns
    -------
    np.ndarray
        (...), 0 to 180; blind to the brightness of either array.

    Raises
    ------
    GridError
        If the shapes differ, or the arrays are empty or have no band axis.
    RadiometryError
        If a value is infinite.

    References
    ----------
    Yuhas et al. (1992), Discrimination among semi-arid landscape endmembers using the
    spectral angle mapper (SAM) algorithm. Kahan (2006), How futile are mindless
    assessments of roundoff in floating-point computation?, on mangled angles.

    >>> float(sam([[[1.0]], [[0.0]]], [[[0.0]], [[2.0]]]))
    90.0
    """
    pred, truth = checked(pred, truth, ndim=3)
    total = np.zeros(pred.shape[:-3])
    count = np.zeros(pred.shape[:-3])
    for x, y in strips(pred, truth):
        norm_x, norm_y = _norm(x), _norm(y)
        a, b = x * norm_y, y * norm_x  # of one length
        angle = 2 * np.arctan2(_norm(a - b), _norm(a + b))
        there = norm_x * norm_y > 0  # not NaN either
        total += np.where(there, angle, 0).sum((-3, -2, -1))
        count += there.sum((-3, -2, -1))
    return plain(np.degrees(ratio(total, count)))


def _error_and_signal(pred: NDArray[Any], truth: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return the mean squared error and the mean truth of the pixels in both."""
    count, squares, signal = np.zeros((3, *pred.shape[:-2]))
    for x, y in strips(pred, truth):
        error = x - y
        gone = np.isnan(error)
        error[gone] = y[gone] = 0
        count += gone.shape[-2] * gone.shape[-1] - gone.sum((-2, -1))
        squares += np.square(error).sum((-2, -1))
        signal += y.sum((-2, -1))
    return ratio(squares, count), ratio(signal, count)


def _norm(spectra: Floats) -> Floats:
    """Return the length of each spectrum, the band axis kept."""
    return np.sqrt(np.square(spectra).sum(-3, keepdims=True))  # type: ignore[no-any-return]


def _decibel(signal: Floats, noise: Floats) -> Floats:
    """Return the ratio of two powers in dB; no noise is infinitely good."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return plain(10 * np.log10(np.asarray(signal) / noise))
