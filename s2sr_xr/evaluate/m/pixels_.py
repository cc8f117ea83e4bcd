"""How near a prediction is to the truth: functions of two arrays.

All take ``(pred, truth)`` of one shape and compare them by position, in float64. Arrays
are (..., H, W); an array of scores has the leading axes, and one image one number.

A pixel that is missing (NaN) in either array is left out, with every window that holds
it; where nothing is left, the score is NaN. Infinite values are an error: a broken
prediction must not look like a missing one.

==============  =======  ==================  =========================================
function        perfect  unit                what is averaged
==============  =======  ==================  =========================================
`rmse`          0        that of the pixels  squared error over the pixels of a band
`sre`           inf      dB                  squared error over the pixels of a band
`psnr`          inf      dB                  squared error over the pixels of a band
`aligned_psnr`  inf      dB                  the same, the truth moved onto the band
`sam`           0        degrees             angles over pixels; one score for all bands
`uiq`           1        none                8 x 8 windows of a band
`ssim`          1        none                11 x 11 Gaussian windows of a band
==============  =======  ==================  =========================================

The mean over the bands, as papers print it, is ``rmse(pred, truth).mean()``: a mean of
scores, not the score of all bands together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.errors import GridError, RadiometryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["check_peak", "checked", "psnr", "rmse", "sam", "sre", "ssim", "uiq"]

_STRIP = 32
"""Rows at a time: the temporaries of a 1000 px wide band stay in the cache (SSIM twice
as fast), and a whole scene needs megabytes instead of ten copies in float64."""

_FLAT = 64 * np.finfo(np.float64).eps
"""Variance over mean square below which a window is flat: what rounding leaves of the
difference of two sums. It is a standard deviation of 1e-7 of the mean, one step of
float32."""


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
    return _plain(np.sqrt(mse))


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
    for x, y in _strips(pred, truth):
        norm_x, norm_y = _norm(x), _norm(y)
        a, b = x * norm_y, y * norm_x  # of one length
        angle = 2 * np.arctan2(_norm(a - b), _norm(a + b))
        there = norm_x * norm_y > 0  # not NaN either
        total += np.where(there, angle, 0).sum((-3, -2, -1))
        count += there.sum((-3, -2, -1))
    return _plain(np.degrees(_ratio(total, count)))


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
    flat = variance <= _FLAT * (xx + yy)
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
        for x, y in _strips(pred[image], truth[image], overlap=side - 1):
            fields = (x, y, x * x, y * y, x * y)
            # Sums of shifted slices: a NaN stays in the windows that touch it.
            scores = score(*(_windows(f, taps) for f in fields))
            there = ~np.isnan(scores)
            total[image] += scores[there].sum()
            count[image] += there.sum()
    return _plain(_ratio(total, count))


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


def _error_and_signal(pred: NDArray[Any], truth: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return the mean squared error and the mean truth of the pixels in both."""
    count, squares, signal = np.zeros((3, *pred.shape[:-2]))
    for x, y in _strips(pred, truth):
        error = x - y
        gone = np.isnan(error)
        error[gone] = y[gone] = 0
        count += gone.shape[-2] * gone.shape[-1] - gone.sum((-2, -1))
        squares += np.square(error).sum((-2, -1))
        signal += y.sum((-2, -1))
    return _ratio(squares, count), _ratio(signal, count)


def _strips(
    pred: NDArray[Any], truth: NDArray[Any], *, overlap: int = 0
) -> Iterator[tuple[Floats, Floats]]:
    """Yield fresh float64 copies of both, some rows at a time."""
    for top in range(0, pred.shape[-2] - overlap, _STRIP):
        rows = slice(top, top + _STRIP + overlap)
        yield pred[..., rows, :].astype(float), truth[..., rows, :].astype(float)


def checked(
    pred: ArrayLike, truth: ArrayLike, *, ndim: int = 2
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both as arrays, or raise unless they are finite images of one shape."""
    pred, truth = _unmasked(pred), _unmasked(truth)
    if pred.shape != truth.shape:
        raise GridError(
            f"pred has shape {pred.shape} and truth {truth.shape}; bring both to the "
            f"same pixels first"
        )
    if pred.ndim < ndim or pred.size == 0:
        axes = ("B", "H", "W")[-ndim:]
        raise GridError(
            f"Scores need shape (..., {', '.join(axes)}) with a pixel in it, got "
            f"{pred.shape}"
        )
    for name, image in (("pred", pred), ("truth", truth)):
        if bad := int(np.isinf(image).sum()):
            raise RadiometryError(
                f"{name} has {bad} infinite values; missing pixels are NaN, and "
                f"anything else infinite is a fault where {name} was made"
            )
    return pred, truth


def _unmasked(image: ArrayLike) -> NDArray[Any]:
    """Return an array; what a mask hides is NaN."""
    if not isinstance(image, np.ma.MaskedArray):
        return np.asarray(image)
    values = np.ma.getdata(image)
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    return np.where(np.ma.getmaskarray(image), np.nan, values).astype(values.dtype)


def check_peak(peak: float) -> None:
    """Raise unless `peak` can be the top of a value range."""
    if not 0 < peak < np.inf:
        raise RadiometryError(
            f"peak is the brightest value there can be, more than 0; got {peak}"
        )


def _norm(spectra: Floats) -> Floats:
    """Return the length of each spectrum, the band axis kept."""
    return np.sqrt(np.square(spectra).sum(-3, keepdims=True))  # type: ignore[no-any-return]


def _decibel(signal: Floats, noise: Floats) -> Floats:
    """Return the ratio of two powers in dB; no noise is infinitely good."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _plain(10 * np.log10(np.asarray(signal) / noise))


def _ratio(total: Floats, count: Floats) -> Floats:
    """Return the mean, NaN where nothing was counted."""
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _plain(scores: Floats) -> Floats:
    """Return a number for one image: NumPy's scalar, which JSON and f-strings take."""
    return np.asarray(scores)[()]
