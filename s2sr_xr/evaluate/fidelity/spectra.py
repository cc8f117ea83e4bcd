"""How much of each frequency is in an image, and how much of it is the truth's.

Frequencies are in cycles a pixel, from ``1 / side`` to 0.5, one a ring. Windows of
`side` pixels, tapered (Hann) and half overlapping, are averaged (Welch), so that edges
of the image and missing pixels do not leak into high frequencies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.errors import GridError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["energy_gain", "resolved", "ring_correlation", "spectrum", "transforms"]

SIDE = 64

LEAST = 8
"""Pixels along a side of an image that has a spectrum."""


def spectrum(image: ArrayLike, *, side: int = SIDE) -> tuple[Floats, Floats]:
    """Return the power at each frequency, averaged over directions.

    Parameters
    ----------
    image
        (H, W), any unit.
    side
        Of the windows, in pixels; at most that of the image.

    Returns
    -------
    tuple
        Frequencies in cycles a pixel, and the power there in the square of the unit:
        that of white noise is its variance, less in the first ring, of which the mean
        takes a part. NaN without a window.

    Raises
    ------
    GridError
        If the image has fewer than 8 pixels a side, or is not 2-D.
    """
    values = np.asarray(image, np.float64)
    found = transforms(values, side=side)
    f, rings = _rings(found.shape[-1])
    if not len(found):
        return f, np.full(f.size, np.nan)
    return f, _per_ring(_power(found[:, 0]), rings, f.size)


def ring_correlation(
    pred: ArrayLike, truth: ArrayLike, *, side: int = SIDE
) -> tuple[Floats, Floats]:
    """Return how alike two images are at each frequency: Fourier ring correlation.

    Parameters
    ----------
    pred, truth
        (H, W) of one shape, any units.
    side
        As in `spectrum`.

    Returns
    -------
    tuple
        Frequencies in cycles a pixel, and the correlation there: 1 for the same waves,
        whatever their strength, 0 for independent ones.

    Raises
    ------
    GridError
        As `spectrum`; or if the shapes differ.

    References
    ----------
    van Heel and Schatz (2005), Fourier shell correlation threshold criteria, J. Struct.
    Biol. 151(3).
    """
    found = transforms(
        np.asarray(pred, np.float64), np.asarray(truth, np.float64), side=side
    )
    f, rings = _rings(found.shape[-1])
    if not len(found):
        return f, np.full(f.size, np.nan)
    a, b = found[:, 0], found[:, 1]
    both = _per_ring((a * np.conj(b)).real.mean(0), rings, f.size)
    own = [_per_ring((np.abs(v) ** 2).mean(0), rings, f.size) for v in (a, b)]
    with np.errstate(invalid="ignore"):
        return f, both / np.sqrt(own[0] * own[1])


def resolved(frequency: Floats, curve: Floats, *, level: float = 0.5) -> float:
    """Return the frequency up to which a curve stays at or above a level.

    Parameters
    ----------
    frequency, curve
        As `ring_correlation` returns them.
    level
        0.5: half of what is there is the truth's, and half is not.

    Returns
    -------
    float
        By linear interpolation, in the unit of `frequency`; the last frequency where
        the curve never falls, 0 where it begins below; NaN where it has NaN
        before it falls.
    """
    if np.isnan(curve[:1]).any():
        return float("nan")
    below = np.flatnonzero(~(curve >= level))
    if not below.size:
        return float(frequency[-1])
    k = int(below[0])
    if k == 0:
        return 0.0
    share = (curve[k - 1] - level) / (curve[k - 1] - curve[k])
    return float(frequency[k - 1] + share * (frequency[k] - frequency[k - 1]))


def energy_gain(
    image: ArrayLike, baseline: ArrayLike, *, above: float, side: int = SIDE
) -> float:
    """Return the power beyond a frequency over that of a baseline.

    Parameters
    ----------
    image, baseline
        (H, W) of one shape and unit; `baseline` is bicubic interpolation, or the truth.
    above
        In cycles a pixel: ``0.5 / f`` is the Nyquist frequency of pixels f times as
        wide. More than 1 is detail that interpolation has not, true or not.
    side
        As in `spectrum`.

    Returns
    -------
    float
        NaN where no window is whole, or the baseline has nothing beyond `above`.
    """
    a, b = np.asarray(image, np.float64), np.asarray(baseline, np.float64)
    found = transforms(a, b, side=side)
    n = found.shape[-1]
    beyond = np.hypot(*np.meshgrid(np.fft.fftfreq(n), np.fft.fftfreq(n))) > above
    ours, theirs = (float((np.abs(found[:, k]) ** 2 * beyond).sum()) for k in (0, 1))
    return ours / theirs if theirs > 0 else float("nan")


def transforms(*images: Floats, side: int = SIDE) -> NDArray[np.complex128]:
    """Return the transforms of the windows that are whole in all images.

    Parameters
    ----------
    images
        (H, W) of one shape.
    side
        Of the windows; at most that of the images.

    Returns
    -------
    np.ndarray
        ``(windows, images, side, side)``, each window without its mean, tapered; scaled
        so that the squares of white noise are its variance.

    Raises
    ------
    GridError
        If the images differ in shape, are not 2-D, or have fewer than 8 pixels a side.
    """
    shape = images[0].shape
    if any(v.shape != shape for v in images) or len(shape) != 2 or min(shape) < LEAST:
        raise GridError(
            f"Spectra need images (H, W) of one shape, {LEAST} pixels a side or more; "
            f"got {', '.join(str(v.shape) for v in images)}."
        )
    n = min(side, *shape)
    taper = np.hanning(n + 2)[1:-1]
    taper = np.outer(taper, taper)
    taper /= np.sqrt(np.square(taper).sum())
    starts = [range(0, k - n + 1, max(n // 2, 1)) for k in shape]
    windows = [
        np.stack([v[i : i + n, j : j + n] for v in images])
        for i in starts[0]
        for j in starts[1]
    ]
    whole = [w for w in windows if np.isfinite(w).all()]
    if not whole:
        return np.empty((0, len(images), n, n), np.complex128)
    stack = np.stack(whole)
    # Counted from a pixel of its own, a constant is 0, not nearly so.
    stack = stack - stack[..., :1, :1]
    # The tapered mean is taken off, or its lobe hides the lowest rings.
    means = (stack * taper).sum((-2, -1), keepdims=True) / taper.sum()
    return np.fft.fft2((stack - means) * taper)


def _power(transformed: NDArray[np.complex128]) -> Floats:
    squares: Floats = (np.abs(transformed) ** 2).mean(0)
    return squares


def _rings(n: int) -> tuple[Floats, NDArray[np.intp]]:
    """Return the frequencies of the rings, and the ring of each wave; 0 is none."""
    f = np.fft.fftfreq(n)
    ring = np.rint(np.hypot(f[:, None], f) * n).astype(np.intp)
    ring[ring > n // 2] = 0
    return np.arange(1, n // 2 + 1) / n, ring


def _per_ring(values: Floats, rings: NDArray[np.intp], count: int) -> Floats:
    total = np.bincount(rings.ravel(), values.ravel(), minlength=count + 1)
    waves = np.bincount(rings.ravel(), minlength=count + 1)
    return np.asarray(total[1:] / waves[1:], np.float64)
