"""Filters of images in memory: Gaussian blur, means of blocks, reduced scale."""

from __future__ import annotations

import math
from functools import reduce

import torch

from s2sr_xr.errors import GridError, RadiometryError

__all__ = [
    "block_mean",
    "check",
    "check_blocks",
    "check_larger",
    "gaussian_blur",
    "mirrored",
    "reduce_scale",
]


def gaussian_blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return `x` blurred by a Gaussian, the same shape.

    The kernel is sampled at pixel centres, cut at 4 `sigma` (rounded to whole pixels)
    and normalised; beyond the edge the image is mirrored, edge pixel included. Both as
    ``scipy.ndimage.gaussian_filter(mode="reflect")``.

    Parameters
    ----------
    x
        (..., H, W), float, any unit. A NaN spreads ``int(4 * sigma + 0.5)`` pixels
        along each axis.
    sigma
        Standard deviation, in pixels. Below 1/8 nothing is blurred.

    Raises
    ------
    GridError
        If `sigma` is negative or not finite, or `x` is not an image.
    RadiometryError
        If `x` holds integers.
    """
    check(x)
    if not (math.isfinite(sigma) and sigma >= 0):
        raise GridError(f"sigma is a width in pixels, 0 or more; got {sigma}")
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return x
    bell = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    weights = [b / sum(bell) for b in bell]
    for dim in (-2, -1):
        padded = mirrored(x, radius, dim)
        size = x.shape[dim]
        terms = (padded.narrow(dim, i, size) * w for i, w in enumerate(weights))
        x = next(terms)
        for term in terms:
            x += term
    return x


def block_mean(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Return the mean of each `factor` x `factor` block of pixels.

    Parameters
    ----------
    x
        (..., H, W), float, any unit. A NaN makes its block NaN.
    factor
        Pixels along the side of a block; divides H and W.

    Returns
    -------
    torch.Tensor
        (..., H / `factor`, W / `factor`).

    Raises
    ------
    GridError
        If `factor` is less than 1 or does not divide H and W, or `x` is not an image.
    RadiometryError
        If `x` holds integers.

    >>> block_mean(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), 2)
    tensor([[3.]])
    """
    check(x)
    if factor < 1:
        raise GridError(f"factor counts pixels, so it is at least 1; got {factor}")
    check_blocks(x, factor)
    # Slices in a fixed order: a reduction may add up differently for another shape.
    rows = reduce(torch.add, [x[..., i::factor, :] for i in range(factor)])
    return reduce(torch.add, [rows[..., i::factor] for i in range(factor)]) / factor**2


def reduce_scale(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Return `x` as a sensor with pixels `factor` times as wide would have seen it.

    A Gaussian of ``1 / factor`` pixels, then the mean of each block: DSen2's recipe.
    At 2 it leaves 0.56 of the contrast at the Nyquist frequency of the new pixels (the
    paper takes 0.44-0.55 for the 10 m and 20 m bands of Sentinel-2; the table in
    `core.bands` has less). At 6 the kernel is practically a single pixel, and the
    block mean alone leaves 0.64.

    Parameters
    ----------
    x
        (..., H, W), float, any unit. A NaN makes its own output pixel NaN and, within
        reach of the blur (2 pixels at a factor of 2, 1 from 3 to 8, 0 beyond), its
        neighbours.
    factor
        Pixels along the side of a new pixel, 2 or more; divides H and W.

    Returns
    -------
    torch.Tensor
        (..., H / `factor`, W / `factor`), in the unit of `x`.

    Raises
    ------
    GridError
        If `factor` is less than 2 or does not divide H and W, or `x` is not an image.
    RadiometryError
        If `x` holds integers.
    """
    check_larger(factor)
    return block_mean(gaussian_blur(x, 1 / factor), factor)


def check(x: torch.Tensor) -> None:
    """Raise unless `x` is a stack of float images."""
    if not x.is_floating_point():
        raise RadiometryError(
            f"Counts are degraded as float, got {x.dtype}; convert them with .float()"
        )
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise GridError(f"An image has shape (..., H, W), got {tuple(x.shape)}")


def check_larger(factor: int) -> None:
    """Refuse a pixel that does not become larger."""
    if factor < 2:
        raise GridError(f"A larger pixel is 2 or more pixels wide, got {factor}")


def check_blocks(x: torch.Tensor, factor: int) -> None:
    """Raise unless blocks of `factor` cover `x`."""
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        raise GridError(
            f"{height} x {width} pixels do not divide into blocks of {factor}; crop to "
            f"{height // factor * factor} x {width // factor * factor}, or mirror the "
            f"edges up to {-(-height // factor) * factor} x "
            f"{-(-width // factor) * factor}"
        )


def mirrored(x: torch.Tensor, by: int, dim: int) -> torch.Tensor:
    """Return `x` with `by` mirrored pixels on both sides along `dim`.

    Flips and not an index: the gradient of indexing adds atomically on a GPU.
    """
    while by:
        step = min(by, x.shape[dim])
        first = x.narrow(dim, 0, step).flip(dim)
        last = x.narrow(dim, x.shape[dim] - step, step).flip(dim)
        x, by = torch.cat((first, x, last), dim), by - step
    return x
