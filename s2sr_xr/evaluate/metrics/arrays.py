"""What every metric shares: checks, strips of rows, means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.errors import GridError, RadiometryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = ["check_peak", "checked", "plain", "ratio", "strips"]

STRIP = 32
"""Rows at a time: the temporaries of a 1000 px wide band stay in the cache (SSIM twice
as fast), and a whole scene needs megabytes instead of ten copies in float64."""


def strips(
    pred: NDArray[Any], truth: NDArray[Any], *, overlap: int = 0
) -> Iterator[tuple[Floats, Floats]]:
    """Yield fresh float64 copies of both, some rows at a time."""
    for top in range(0, pred.shape[-2] - overlap, STRIP):
        rows = slice(top, top + STRIP + overlap)
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


def ratio(total: Floats, count: Floats) -> Floats:
    """Return the mean, NaN where nothing was counted."""
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def plain(scores: Floats) -> Floats:
    """Return a number for one image: NumPy's scalar, which JSON and f-strings take."""
    return np.asarray(scores)[()]
