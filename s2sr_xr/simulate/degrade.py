"""What a sensor of larger pixels would have seen, on torch tensors.

The reduced-scale operator of DSen2: networks learn 40 -> 20 m and are applied at
20 -> 10 m, so training pairs are made from the images themselves. The point spread of
EvoLand, which is given by its MTF, and its noise. And three regimes of alias and band
shift, to ask what each of the two is worth. All of it is differentiable and
deterministic, and works on tensors of shape (..., H, W).

A pixel is computed by the same sequence of operations wherever it lies: away from the
edges, a crop of the result is the result of the crop, bit for bit. A NaN makes every
output pixel whose support holds it NaN, and no other.

References
----------
Lanaras et al. (2018), Super-resolution of Sentinel-2 images, ISPRS J. 146, section 4.1.
Michel and Kalinicheva (2024), Building an operational shallow Sentinel-2 single image
super-resolution network for EvoLand prototypes, SUREDOS24: simulated and Wald batches.
Nguyen et al. (2023), L1BSR, CVPR workshops, section 4.1: blur and sampling of a regime.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch

from s2sr_xr.core.filters import (
    check,
    check_blocks,
    check_larger,
    gaussian_blur,
    mirrored,
)
from s2sr_xr.errors import GridError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Regime",
    "add_noise",
    "mtf_sigma",
    "psf_downscale",
    "psf_weights",
    "sampled_in",
    "shift_bands",
]

Regime: TypeAlias = Literal["none", "alias", "alias+shift"]
"""What an image is sampled with: neither alias nor band shift, alias, or both."""

HALF = 3
"""Pixels on each side of the middle of EvoLand's kernel, whatever its width."""

BETWEEN = (-0.09375, 0.59375, 0.59375, -0.09375)
"""Keys' kernel with a = -0.75 half-way between two pixels."""

OPTICS = 0.7
"""Blur before sampling in L1BSR's simulation, in fine pixels: it lets much alias."""

CLEAN = 0.1
"""Contrast that is left at the new Nyquist frequency where nothing may alias."""


def mtf_sigma(mtf: float, factor: float) -> float:
    r"""Return the Gaussian that leaves `mtf` of the contrast at the new Nyquist.

    It is :math:`\sigma = \frac{f}{\pi} \sqrt{-2 \ln m}`, as the transfer of a Gaussian
    is :math:`\exp(-2 \pi^2 \sigma^2 \nu^2)` and the new Nyquist frequency :math:`1/2f`.
    The Gaussian is then all of the blur: sample after it, do not take block means.

    Parameters
    ----------
    mtf
        Contrast that is left at the Nyquist frequency of the new pixels, in (0, 1].
    factor
        Width of a new pixel, in pixels of the image that is blurred.

    Returns
    -------
    float
        Standard deviation, in pixels of the image that is blurred.

    Raises
    ------
    GridError
        If `mtf` is outside (0, 1] or `factor` is not positive.

    >>> round(mtf_sigma(0.3, 4), 3)
    1.976
    """
    if not 0 < mtf <= 1:
        raise GridError(f"mtf is a share of the contrast, in (0, 1]; got {mtf}")
    if not factor > 0:
        raise GridError(f"factor is a width in pixels, more than 0; got {factor}")
    return factor / math.pi * math.sqrt(-2 * math.log(mtf))


def psf_weights(mtf: float, factor: float, *, half: int = HALF) -> tuple[float, ...]:
    """Return EvoLand's point spread along a line: a Gaussian at ``2 half + 1`` pixels.

    It sums to 1. The published half width is 3 whatever the factor: at a factor of 4
    and an MTF of 0.3 that cuts the bell at 1.5 standard deviations, and 0.39 of the
    contrast is left at the new Nyquist frequency, not 0.3. ``half=8`` keeps it.

    Parameters
    ----------
    mtf, factor
        As in `mtf_sigma`.
    half
        Pixels on each side of the middle, 0 or more.

    Raises
    ------
    GridError
        If `half` is negative, or as `mtf_sigma`.

    >>> [round(w, 3) for w in psf_weights(0.3, 2)]
    [0.004, 0.052, 0.242, 0.404, 0.242, 0.052, 0.004]
    """
    if half < 0:
        raise GridError(f"half counts pixels, so it is at least 0; got {half}")
    sigma = mtf_sigma(mtf, factor)
    steps = range(-half, half + 1)
    bell = [math.exp(-0.5 * (i / sigma) ** 2) if sigma else float(not i) for i in steps]
    return tuple(b / sum(bell) for b in bell)


def psf_downscale(
    x: torch.Tensor, factor: int, mtf: float, *, half: int = HALF
) -> torch.Tensor:
    """Return `x` on pixels `factor` times as wide, as EvoLand simulates Sentinel-2.

    The point spread of `psf_weights`, then one sample a new pixel, at its centre: that
    is a pixel for odd factors, and for even ones bicubic interpolation between four.

    Parameters
    ----------
    x
        (..., H, W), float, any unit. Beyond the edge it is mirrored without the edge
        pixel; the interpolation repeats the edge. NaN spreads over its support.
    factor
        Pixels along the side of a new pixel, 2 or more; divides H and W.
    mtf
        Contrast that the point spread leaves at the new Nyquist frequency, in (0, 1].
    half
        Pixels on each side of the middle of the kernel; less than H and W.

    Returns
    -------
    torch.Tensor
        (..., H / `factor`, W / `factor`), in the unit of `x`.

    Raises
    ------
    GridError
        If `factor` is less than 2 or does not divide H and W, or the image is not
        larger than the kernel's half, or as `psf_weights`.
    RadiometryError
        If `x` holds integers.
    """
    check(x)
    check_larger(factor)
    check_blocks(x, factor)
    height, width = x.shape[-2:]
    if min(height, width) <= half:
        raise GridError(
            f"{height} x {width} pixels cannot be mirrored by {half}; give an image "
            f"of at least {half + 1} pixels along each side, or a smaller half"
        )
    weights = psf_weights(mtf, factor, half=half)
    for dim in (-2, -1):
        size = x.shape[dim]
        before = x.narrow(dim, 1, half).flip(dim)
        after = x.narrow(dim, size - 1 - half, half).flip(dim)
        x = _weighed(torch.cat((before, x, after), dim), weights, dim)
        x = _at_centres(x, factor, dim)
    return x


def _weighed(x: torch.Tensor, weights: Sequence[float], dim: int) -> torch.Tensor:
    """Return the weighted sums of ``len(weights)`` neighbours along `dim`."""
    size = x.shape[dim] - len(weights) + 1
    return reduce(
        torch.add, [x.narrow(dim, i, size) * w for i, w in enumerate(weights)]
    )


def _at_centres(x: torch.Tensor, factor: int, dim: int) -> torch.Tensor:
    """Return one sample a pixel of `factor` pixels, at its centre along `dim`."""
    if factor % 2:
        return _every(x, factor, factor // 2, dim)
    edge = [x.narrow(dim, i, 1) for i in (0, x.shape[dim] - 1)]
    # One more at the end, so that every tap has a whole number of strides.
    padded = torch.cat((edge[0], x, *[edge[1]] * factor), dim)
    count = x.shape[dim] // factor
    taps = [
        _every(padded, factor, factor // 2 - 1 + k, dim).narrow(dim, 0, count) * w
        for k, w in enumerate(BETWEEN)
    ]
    return reduce(torch.add, taps)


def _every(x: torch.Tensor, step: int, first: int, dim: int) -> torch.Tensor:
    """Return every `step`-th pixel along `dim`, from `first` on."""
    return x[..., first::step, :] if dim == -2 else x[..., first::step]


def add_noise(
    x: torch.Tensor, std: Sequence[float], generator: torch.Generator
) -> torch.Tensor:
    """Return `x` with white noise, of its own deviation in each band.

    Parameters
    ----------
    x
        (..., C, H, W), float.
    std
        One deviation a band, in the unit of `x`.
    generator
        Where the noise comes from; on the CPU, so that it is the same on any device.

    Raises
    ------
    GridError
        If there are not as many deviations as bands, or one is negative.
    RadiometryError
        If `x` holds integers.
    """
    check(x)
    if x.ndim < 3 or len(std) != x.shape[-3] or min(std) < 0:
        raise GridError(
            f"Noise needs one deviation of 0 or more a band: got {list(std)} for an "
            f"image of shape {tuple(x.shape)}"
        )
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
    return x + noise * torch.tensor(std).to(x)[:, None, None]


def shift_bands(x: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Return `x` with each band moved by its own fraction of a pixel or more.

    Bicubic interpolation (a = -0.75) along y, then x. Beyond the edge the image is
    mirrored, edge pixel included.

    Parameters
    ----------
    x
        (..., C, H, W), float. NaN spreads over the four pixels that see it.
    shifts
        (C, 2): pixels down and to the right.

    Raises
    ------
    GridError
        If `shifts` has another shape.
    RadiometryError
        If `x` holds integers.
    """
    check(x)
    if x.ndim < 3 or tuple(shifts.shape) != (x.shape[-3], 2):
        raise GridError(
            f"shifts has one pair (down, right) a band; got {tuple(shifts.shape)} for "
            f"an image of shape {tuple(x.shape)}"
        )
    bands = [
        _moved(_moved(band[..., None, :, :], float(down), -2), float(right), -1)
        for band, (down, right) in zip(x.unbind(-3), shifts.tolist(), strict=True)
    ]
    return torch.cat(bands, -3)


def _moved(x: torch.Tensor, by: float, dim: int) -> torch.Tensor:
    """Return `x` moved along `dim` towards higher indices."""
    whole = math.floor(-by)
    weights = _keys(-by - whole)
    # Output i lies at i - by: between i + whole and the next.
    reach = max(abs(whole - 1), abs(whole + 2))
    padded = mirrored(x, reach, dim)
    size = x.shape[dim] + 3
    return _weighed(padded.narrow(dim, reach + whole - 1, size), weights, dim)


def _keys(t: float) -> tuple[float, ...]:
    """Return the weights of four pixels for a sample `t` behind the second."""
    a = -0.75
    near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, 1 - t)]
    far = [a * (d - 1) * (d - 2) ** 2 for d in (1 + t, 2 - t)]
    return far[0], near[0], near[1], far[1]


def sampled_in(
    x: torch.Tensor,
    regime: Regime,
    generator: torch.Generator,
    *,
    factor: int = 2,
    shift: float = 1.0,
) -> torch.Tensor:
    """Return `x` as a sensor samples it: every `factor`-th pixel, in one of three ways.

    The regimes of a talk that gives no constants; these are ours. ``"alias"`` blurs as
    L1BSR's simulation does, by 0.7 fine pixels, which leaves frequencies beyond the new
    Nyquist's. ``"none"`` blurs until 0.1 of the contrast is left at that frequency.
    ``"alias+shift"`` moves each band before it is sampled, as a push-broom sensor does,
    so that the bands sample other places: the first band stays.

    Parameters
    ----------
    x
        (..., C, H, W), float. NaN spreads over what sees it.
    regime
        ``"none"``, ``"alias"`` or ``"alias+shift"``.
    generator
        Where the shifts come from.
    factor
        Pixels along the side of a new pixel, 2 or more; divides H and W.
    shift
        Largest shift along y and x, in new pixels.

    Returns
    -------
    torch.Tensor
        (..., C, H / `factor`, W / `factor`): samples at the upper left of each block.

    Raises
    ------
    GridError
        If the regime is unknown, `x` has no bands, or sizes and factor are as in
        `block_mean`.
    RadiometryError
        If `x` holds integers.

    References
    ----------
    Anger et al., On the role of alias and band-shift for Sentinel-2 super-resolution
    (2023), IGARSS.
    """
    if regime not in get_args(Regime):
        raise GridError(
            f"Unknown regime {regime!r}; choose from {', '.join(get_args(Regime))}"
        )
    check(x)
    if x.ndim < 3:
        raise GridError(
            f"Bands are sampled of an image (..., C, H, W), got {tuple(x.shape)}"
        )
    check_larger(factor)
    check_blocks(x, factor)
    if regime == "alias+shift":
        drawn = 2 * torch.rand((x.shape[-3], 2), generator=generator) - 1
        drawn[0] = 0
        x = shift_bands(x, drawn * shift * factor)
    sigma = mtf_sigma(CLEAN, factor) if regime == "none" else OPTICS * factor / 2
    return gaussian_blur(x, sigma)[..., ::factor, ::factor]
