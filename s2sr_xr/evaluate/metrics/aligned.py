"""PSNR of images that are first moved onto each other."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.errors import GridError, RadiometryError, S2SRError
from s2sr_xr.evaluate.metrics.arrays import check_peak, checked
from s2sr_xr.evaluate.metrics.pixels import psnr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["aligned_psnr"]

ATTACHMENT = 15.0
"""The weight of the data in TV-L1, for images in 0..1. The L1BSR paper has 0.3, in a
program that brings them to 0..255: some 76 here. Of 15, 30, 76 and 150, the first finds
shifts of 0.15 to 1.5 pixels of real bands best (by 1 to 7 dB more than 76), and
follows noise least (PSNR of 46 dB: +0.5 dB, with 76 +0.9 dB)."""

SMALLEST = 16
"""Pixels along the shorter side of an image that a flow is looked for in."""

SUPPORT = 3
"""Pixels around a missing one that interpolation would make of it, in the main."""


def aligned_psnr(
    pred: ArrayLike,
    truth: ArrayLike,
    *,
    peak: float = 1.0,
    attachment: float = ATTACHMENT,
) -> Floats:
    """Return the PSNR of each band after the truth was moved onto it, in dB.

    A truth whose own bands lie a little apart punishes a prediction whose
    bands do not. So a smooth flow from each band of the prediction to the same band of
    the truth is found (TV-L1), and the truth is taken from where it leads (cubic
    spline). Where it leads out of the image, the pixel is left out.

    A flow follows errors too: without any shift the score is a little above `psnr`,
    the more so the smaller or noisier the image is. Compare aligned scores with each
    other only. It takes some 0.3 s for 192 x 192 pixels.

    Parameters
    ----------
    pred, truth
        (..., H, W), any unit, 16 pixels or more along each side. NaN is left out, with
        3 pixels around it. Not symmetric: `truth` is what moves.
    peak
        As in `psnr`.
    attachment
        How much a difference of intensity counts against the smoothness of the flow,
        for images in 0..1: both are brought there together.

    Returns
    -------
    np.ndarray
        (...); ``inf`` for a perfect prediction.

    Raises
    ------
    GridError
        If the shapes differ, or the arrays are empty, no images, or too small.
    RadiometryError
        If a value is infinite, or `peak` or `attachment` is not positive.
    S2SRError
        If scikit-image is not installed.

    References
    ----------
    Nguyen et al. (2023), L1BSR, CVPR workshops, section 4.3. Zach et al. (2007), A
    duality based approach for realtime TV-L1 optical flow, DAGM.
    """
    check_peak(peak)
    if not 0 < attachment < np.inf:
        raise RadiometryError(
            f"attachment is a weight, more than 0 and finite; got {attachment}"
        )
    pred, truth = checked(pred, truth)
    if min(pred.shape[-2:]) < SMALLEST:
        raise GridError(
            f"An image of {pred.shape[-2]} x {pred.shape[-1]} pixels is too small to "
            f"be aligned; give {SMALLEST} pixels or more along each side"
        )
    moved = np.empty(truth.shape)
    for image in np.ndindex(truth.shape[:-2]):
        moved[image] = _moved_onto(
            pred[image].astype(float), truth[image].astype(float), attachment
        )
    return psnr(pred, moved, peak=peak)


def _moved_onto(pred: Floats, truth: Floats, attachment: float) -> Floats:
    """Return one image of the truth, taken from where the prediction shows it."""
    registration, ndimage = _tools("skimage.registration", "scipy.ndimage")
    gone = np.isnan(pred) | np.isnan(truth)
    there = np.concatenate((pred[~gone], truth[~gone]))
    low, span = (there.min(), np.ptp(there)) if there.size else (0.0, 0.0)
    if not span:
        return np.where(gone, np.nan, truth)
    # What is missing is one and the same in both: it pulls nowhere.
    x, y = (np.where(gone, there.mean(), image) for image in (pred, truth))
    flow = registration.optical_flow_tvl1(
        (x - low) / span, (y - low) / span, attachment=attachment, dtype=np.float64
    )
    if not flow.any():
        return np.where(gone, np.nan, truth)
    places = np.indices(y.shape) + flow
    moved: Floats = ndimage.map_coordinates(y, places, order=3, mode="nearest")
    near = ndimage.binary_dilation(gone, np.ones([2 * SUPPORT + 1] * 2))
    touched = ndimage.map_coordinates(near, places.round(), order=0, mode="nearest")
    edge = np.reshape(y.shape, (2, 1, 1)) - 1
    outside = ((places < 0) | (places > edge)).any(0)
    moved[gone | touched | outside] = np.nan
    return moved


def _tools(*names: str) -> Iterator[Any]:
    """Yield modules of scikit-image, and of what it needs; neither has types."""
    for name in names:
        try:
            yield importlib.import_module(name)
        except ImportError as error:
            raise S2SRError(
                "aligned_psnr looks for a flow with scikit-image, which is not "
                "installed: pip install scikit-image"
            ) from error
