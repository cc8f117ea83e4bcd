"""By how many whole pixels one image is moved against another; NaN counts as nothing.

The measure is the normalised cross-correlation of gradient magnitudes, over the pixels
that both images have at each trial shift (Padfield 2012). Edges lie in the same place
in all bands, whatever their brightness: near infrared against green is brighter over
one border and darker over the next, so the gradient's direction does not match, but its
size does. The mask makes the score exact at any shift, so no window function is needed.

Over 90 simulated shifts with fractions, up to 2.5 pixels, between green and the other
10 m bands, the result was at most 0.53 pixels off in each direction. Plain
phase correlation was up to 0.73 off, and with a window function 1.65, in near infrared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["Shift", "estimate"]

LEAST_SHARED = 0.25
"""Share of the pixels of the best-covered shift below which a shift is not tried."""


class Shift(NamedTuple):
    """Where an image lies against another."""

    y: int
    """Rows by which the second image's content lies further down."""

    x: int
    """Columns by which the second image's content lies further right."""

    score: float
    """Correlation there, 1.0 for equal images; 0.0 where nothing can be compared."""


def estimate(
    pairs: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]],
    *,
    reach: int | tuple[int, int],
    least: float = LEAST_SHARED,
) -> Shift:
    """Return the one shift that fits several pairs of windows best.

    Parameters
    ----------
    pairs
        Reference and moved window, 2-D, of any units and any shapes, their first pixels
        taken for the same place. NaN marks missing pixels.
    reach
        Largest shift that is tried, in pixels, along y and x.
    least
        Share of the pixels of the best-covered shift that a shift needs.

    Returns
    -------
    Shift
        Whole pixels: ``moved[i + y, j + x]`` shows what ``reference[i, j]`` shows. Zero
        with the score 0 where no texture decides.

    References
    ----------
    Padfield (2012), Masked object registration in the Fourier domain, IEEE TIP 21(5).

    >>> field = np.random.default_rng(0).normal(size=(40, 40))
    >>> estimate([(field[4:-4, 4:-4], field[2:-6, 5:-3])], reach=5)[:2]
    (2, -1)
    """
    rows, cols = (reach, reach) if isinstance(reach, int) else reach
    total = np.zeros((4, 2 * rows + 1, 2 * cols + 1))
    for reference, moved in pairs:
        total += _products(_edges(reference), _edges(moved), (rows, cols))
    score = _score(total, least)
    # Argmax takes the first; a tie, such as all zeros, belongs to no shift at all.
    if not score.max() > 0:
        return Shift(0, 0, 0.0)
    i, j = np.unravel_index(int(score.argmax()), score.shape)
    return Shift(int(i) - rows, int(j) - cols, float(score[i, j]))


def _edges(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the magnitude of the gradient by central differences, NaN where unknown.

    The outermost pixels have no central difference, and so are unknown.
    """
    values = image.astype(np.float64)
    size = np.full(values.shape, np.nan)
    if min(values.shape) > 2:
        down = values[2:, 1:-1] - values[:-2, 1:-1]
        right = values[1:-1, 2:] - values[1:-1, :-2]
        size[1:-1, 1:-1] = np.hypot(down, right)
    return size


def _products(
    a: NDArray[np.float64], b: NDArray[np.float64], reach: tuple[int, int]
) -> NDArray[np.float64]:
    """Return shared pixels, covariance and both variances (sums), at every shift."""
    mask_a, mask_b = np.isfinite(a), np.isfinite(b)
    if not (mask_a.any() and mask_b.any()):
        return np.zeros((4, 2 * reach[0] + 1, 2 * reach[1] + 1))
    # Centred, or the sums of squares lose what the variances are made of.
    a = np.where(mask_a, a - a[mask_a].mean(), 0)
    b = np.where(mask_b, b - b[mask_b].mean(), 0)
    shape = tuple(
        _fast(max(n, m) + k) for n, m, k in zip(a.shape, b.shape, reach, strict=True)
    )
    of_a = [np.conj(np.fft.rfft2(v, shape)) for v in (mask_a, a, a * a)]
    of_b = [np.fft.rfft2(v, shape) for v in (mask_b, b, b * b)]

    def sums(i: int, j: int) -> NDArray[np.float64]:
        whole = np.fft.irfft2(of_a[i] * of_b[j], shape)
        rows, cols = (np.arange(-k, k + 1) for k in reach)
        return whole[np.ix_(rows, cols)]

    n = np.rint(sums(0, 0))
    per = 1 / np.maximum(n, 1)
    sum_a, sum_b = sums(1, 0), sums(0, 1)
    covariance = sums(1, 1) - sum_a * sum_b * per
    variance_a = sums(2, 0) - sum_a**2 * per
    variance_b = sums(0, 2) - sum_b**2 * per
    return np.stack([n, covariance, variance_a, variance_b]) * (n > 0)


def _score(total: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Return the correlation at every shift, 0 where too little or no texture meets."""
    n, covariance, variance_a, variance_b = total
    # What rounding leaves of a flat image is a billionth of the busiest place.
    floor = 1e-9 * max(float(variance_a.max()), float(variance_b.max()))
    known = (np.minimum(variance_a, variance_b) > floor) & (n >= least * n.max())
    scale = np.sqrt(np.where(known, variance_a * variance_b, 1))
    return np.asarray(np.where(known, covariance / scale, 0))


def _fast(n: int) -> int:
    """Return the next length that the Fourier transform takes quickly: 2^a 3^b 5^c."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
