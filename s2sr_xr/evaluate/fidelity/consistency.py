"""Whether a finer image, averaged back, is still the image it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.errors import GridError
from s2sr_xr.evaluate import metrics
from s2sr_xr.evaluate.fidelity.spectra import LEAST, transforms

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["Agreement", "agreement", "averaged", "shift"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far a result, averaged back to the input's pixels, is from the input."""

    reflectance: tuple[float, ...]
    """Mean absolute difference of each band, in the unit of the pixels."""

    spectral: float
    """Mean angle between the spectra of all bands, in degrees; NaN for one band."""

    spatial: tuple[float, ...]
    """By how much each band is moved, in pixels of the input; NaN of fewer than 8 along
    a side."""


def agreement(result: ArrayLike, native: ArrayLike) -> Agreement:
    """Return how well a result keeps what the sensor recorded.

    In the manner of opensr-test, whose first three scores these are. There the result
    is brought back by a filter and moved by a registration network or correlation; here
    by block means, which is what a sensor with square pixels would do, and by the slope
    of the phase. Its scores of synthesis, omission and hallucination are not here: they
    rest on weights and on a harmonised truth of another sensor.

    Parameters
    ----------
    result
        ``(B, H * f, W * f)``, any whole f.
    native
        ``(B, H, W)`` of the same bands and ground.

    Raises
    ------
    GridError
        The pixels of `result` do not nest in those of `native`.

    References
    ----------
    Aybar et al. (2024), A comprehensive benchmark for optical remote sensing image
    super-resolution, IEEE GRSL 21, section III (consistency).

    >>> native = np.random.default_rng(0).uniform(size=(2, 40, 40))
    >>> agreement(native.repeat(2, 1).repeat(2, 2), native).reflectance
    (0.0, 0.0)
    """
    fine, own = np.asarray(result, np.float64), np.asarray(native, np.float64)
    if fine.ndim != 3 or own.ndim != 3 or len(fine) != len(own):
        raise GridError(
            f"result has shape {fine.shape} and native {own.shape}; both need "
            "(B, H, W) of the same bands."
        )
    back = averaged(fine, _factor(fine.shape, own.shape))
    spectral = float(metrics.sam(back, own)) if len(own) > 1 else float("nan")
    return Agreement(
        reflectance=tuple(_mean(np.abs(a - b)) for a, b in zip(back, own, strict=True)),
        spectral=spectral,
        spatial=tuple(
            float(np.hypot(*shift(a, b))) if min(a.shape) >= LEAST else float("nan")
            for a, b in zip(back, own, strict=True)
        ),
    )


def averaged(image: Floats, factor: int) -> Floats:
    """Return the means of `factor` x `factor` pixels; NaN where one is missing."""
    *lead, rows, cols = image.shape
    blocks = image.reshape(*lead, rows // factor, factor, cols // factor, factor)
    means: Floats = blocks.mean((-3, -1))
    return means


def shift(moved: ArrayLike, reference: ArrayLike, *, side: int = 64) -> Floats:
    """Return by how much one image is moved against another, in fractions of a pixel.

    A shift turns the phase of each frequency in proportion; the slope is found by least
    squares, each frequency weighed by its power in both, around the peak of the phase
    correlation.

    Parameters
    ----------
    moved, reference
        (H, W) of one shape, any units. Windows with a NaN in either are left out.
    side
        Of the windows, in pixels; smaller images are one window. Shifts of more than a
        quarter of it are not found.

    Returns
    -------
    np.ndarray
        (2,): rows and columns by which `moved` lies further down and right. NaN where
        no window is whole, or nothing in it varies.

    References
    ----------
    Stone et al. (2001), A fast direct Fourier-based algorithm for subpixel registration
    of images, IEEE TGRS 39(10).
    """
    first, second = (np.asarray(v, np.float64) for v in (reference, moved))
    pair = transforms(first, second, side=side)
    if not len(pair):
        return np.full(2, np.nan)
    cross = (np.conj(pair[:, 0]) * pair[:, 1]).sum(0)
    if not np.abs(cross).max() > 0:
        return np.full(2, np.nan)
    n = cross.shape[-1]
    f = np.fft.fftfreq(n)
    waves = np.stack(np.meshgrid(f, f, indexing="ij")).reshape(2, -1)
    # Near the Nyquist frequency a phase has no sign; below two periods in the window,
    # its taper is what is seen.
    usable = (np.abs(waves).max(0) < 0.4) & (np.hypot(*waves) * n >= 1.5)
    waves, product = waves[:, usable], cross.ravel()[usable]
    found = _peak(cross)
    for _ in range(3):
        rest = np.angle(product * np.exp(2j * np.pi * found @ waves))
        weighed = waves * np.abs(product)
        found = found - np.linalg.solve(weighed @ waves.T, weighed @ rest) / 2 / np.pi
    return found


def _peak(cross: NDArray[np.complex128]) -> Floats:
    """Return the whole pixels of the highest phase correlation."""
    size = np.abs(cross)
    surface = np.fft.ifft2(cross / np.maximum(size, 1e-9 * size.max())).real
    at = np.array(np.unravel_index(int(surface.argmax()), surface.shape), np.float64)
    n = cross.shape[-1]
    return np.where(at > n / 2, at - n, at)


def _factor(fine: tuple[int, ...], coarse: tuple[int, ...]) -> int:
    factor = fine[-1] // coarse[-1]
    if not factor or any(a != b * factor for a, b in zip(fine[-2:], coarse[-2:])):  # noqa: B905
        raise GridError(
            f"Of {fine[-2:]} pixels no whole number lies along each of "
            f"{coarse[-2:]}; cut both to the same ground."
        )
    return factor


def _mean(values: Floats) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
