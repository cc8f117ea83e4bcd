"""What a coarse pixel sees of fine ones, and what it says of them: A and its inverse.

A coarse pixel is a band's point spread, then the mean over the pixel: ``y = A x``. Here
A is a Gaussian and a block mean, along each axis in turn, of a width that is an input:
one for each band, so that one network serves every unit and every scene.

`observe` is A. `restore` goes back: the fine pixels that are most likely, given what
the coarse ones saw of them, by area-to-point kriging with the same A. Both are valid
convolutions (halo in, no halo out) of a support that no width changes, and each pixel
is one fixed sequence of products and sums: its bits do not depend on where it lies.

References
----------
Kyriakidis (2004), A geostatistical framework for area-to-point spatial interpolation,
Geographical Analysis 36(3), eq. 8: ordinary kriging of points from areas.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from s2sr_xr.errors import GridError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "NEAR",
    "SEEN",
    "bell",
    "gaussian_part",
    "observe",
    "pixels_of",
    "restore",
    "restoring",
    "widest",
]

SEEN = 2
"""Coarse pixels on each side of its own that a coarse pixel may see."""

NEAR = 3
"""Coarse pixels on each side of its own that tell of a fine pixel."""

RANGE = 0.94
"""Correlation of neighbouring fine pixels, which `restore` assumes where coarse pixels
are two wide; of the same ground whatever the pixel."""

NOISE = 1e-3
"""Variance of a coarse pixel's noise that `restore` assumes, beside the variance of the
ground. It keeps fine pixels from making much of little."""

TAILS = 3.0
"""Standard deviations of the Gaussian that must fit into what is seen."""


def widest(factor: int) -> float:
    """Return the largest width that `observe` takes, in fine pixels.

    >>> round(widest(2), 2), round(widest(6), 2)
    (1.42, 4.35)
    """
    return math.hypot(SEEN * factor / TAILS, _pixel(factor))


def pixels_of(metres: Sequence[float], fine: float, factor: int) -> torch.Tensor:
    """Return widths in fine pixels, of widths in metres.

    Parameters
    ----------
    metres
        Standard deviation of what a coarse pixel of each band sees along a line, the
        pixel itself included, beside what a fine pixel sees.
    fine
        Side of a fine pixel, in metres.
    factor
        Fine pixels along the side of a coarse one.

    Returns
    -------
    torch.Tensor
        ``(C,)``, float32.

    Raises
    ------
    GridError
        A width is not a number, narrower than the coarse pixel alone, or wider than
        what `observe` looks at holds.

    >>> pixels_of([8.5, 10.5], 10.0, 2)
    tensor([0.8500, 1.0500])
    """
    least, most = _pixel(factor) * fine, widest(factor) * fine
    for width in metres:
        # The pixel alone, to four figures: 7.071 of DSen2's protocol is one.
        if not least * 0.999 <= width <= most:
            raise GridError(
                f"A width of {width:g} m cannot be: a pixel of {fine * factor:g} m "
                f"alone has {least:.2f} m, and more than {most:.2f} m does not fit "
                f"into the {SEEN} pixels that are looked at on each side. Give the "
                "standard deviation of the point spread with its pixel, in metres."
            )
    return torch.tensor([w / fine for w in metres], dtype=torch.float32)


def _pixel(factor: int) -> float:
    """Return the standard deviation of a row of `factor` samples."""
    return math.sqrt((factor**2 - 1) / 12)


def gaussian_part(width: torch.Tensor, factor: int) -> torch.Tensor:
    """Return the standard deviation of the Gaussian, of that with the pixel.

    >>> gaussian_part(torch.tensor([0.5, 1.3]), 2)
    tensor([0.0000, 1.2000])
    """
    return (width.double() ** 2 - _pixel(factor) ** 2).clamp_min(0).sqrt().to(width)


def bell(width: torch.Tensor, factor: int) -> torch.Tensor:
    """Return what a coarse pixel sees along a line: Gaussian and pixel, sum 1.

    ``(..., (2 SEEN + 1) * factor)`` of widths ``(...)`` in fine pixels: its own pixels
    are in the middle. Float64, symmetric.
    """
    sigma = gaussian_part(width, factor).double().clamp_min(1e-3)[..., None]
    radius = SEEN * factor
    at = torch.arange(-radius, radius + 1, dtype=torch.float64, device=width.device)
    gauss = torch.exp(-0.5 * (at / sigma) ** 2)
    gauss = gauss / gauss.sum(-1, keepdim=True)
    taps = torch.zeros((*width.shape, 2 * radius + factor), dtype=torch.float64)
    taps = taps.to(width.device)
    for k in range(factor):
        taps[..., k : k + 2 * radius + 1] += gauss / factor
    return taps


def observe(x: torch.Tensor, width: torch.Tensor, factor: int) -> torch.Tensor:
    """Return what coarse pixels see of fine ones, without the outer `SEEN`.

    Parameters
    ----------
    x
        ``(B, C, H, W)``, float, any unit; H and W are multiples of `factor`.
    width
        ``(B, C)`` or ``(C,)``, or anything that broadcasts to it: standard deviation
        of what a coarse pixel sees, the pixel included, in fine pixels.
    factor
        Fine pixels along the side of a coarse one.

    Returns
    -------
    torch.Tensor
        ``(B, C, H / factor - 2 SEEN, W / factor - 2 SEEN)``.
    """
    taps = bell(width, factor).to(x.dtype)
    for dim in (-2, -1):
        x = _seen(x, taps, factor, dim)
    return x


def _seen(x: torch.Tensor, taps: torch.Tensor, factor: int, dim: int) -> torch.Tensor:
    """Return `x` with coarse pixels along one axis."""
    count = x.shape[dim] // factor - 2 * SEEN
    last = taps.shape[-1] - 1

    def part(tap: int) -> torch.Tensor:
        ends = slice(tap, tap + (count - 1) * factor + 1, factor)
        return x[..., ends, :] if dim == -2 else x[..., ends]

    # From far to near, both sides at once: what is flipped gives what is flipped.
    made = torch.zeros(())
    for tap in range(taps.shape[-1] // 2):
        term = (part(tap) + part(last - tap)) * taps[..., tap, None, None]
        made = term if tap == 0 else made + term
    return made + part(last // 2) * taps[..., last // 2, None, None] * (
        taps.shape[-1] % 2
    )


def restoring(
    width: torch.Tensor, factor: int, *, span: float = RANGE, noise: float = NOISE
) -> torch.Tensor:
    """Return the weights of coarse pixels for each fine one, by ordinary kriging.

    ``(..., factor, 2 NEAR + 1)`` of widths ``(...)``, float64; they sum to 1. The
    ground's covariance falls by `span` each half of a coarse pixel.
    """
    seen = bell(width, factor)
    near, reach = 2 * NEAR + 1, NEAR + SEEN
    length = (2 * reach + 1) * factor
    rows = torch.zeros((*width.shape, near, length), dtype=torch.float64)
    rows = rows.to(width.device)
    for n in range(near):
        rows[..., n, n * factor : n * factor + seen.shape[-1]] = seen
    at = torch.arange(length, dtype=torch.float64, device=width.device)
    ground = span ** ((at[:, None] - at).abs() * 2 / factor)
    own = ground[reach * factor : (reach + 1) * factor]
    both = own @ rows.mT
    among = rows @ ground @ rows.mT
    among = among + noise * torch.eye(near, dtype=torch.float64, device=width.device)
    one = torch.ones((*width.shape, near, 1), dtype=torch.float64, device=width.device)
    solved = torch.linalg.solve(among, torch.cat((both.mT, one), -1))
    weights, spread = solved[..., :factor].mT, solved[..., factor]
    lacking = (1 - weights.sum(-1)) / spread.sum(-1, keepdim=True)
    weights = weights + lacking[..., None] * spread[..., None, :]
    even: torch.Tensor = (weights + weights.flip(-1, -2)) / 2
    return even


def restore(
    y: torch.Tensor,
    width: torch.Tensor,
    factor: int,
    *,
    span: float = RANGE,
    noise: float = NOISE,
) -> torch.Tensor:
    """Return the likeliest fine pixels of coarse ones, without the outer `NEAR`.

    Seen again by `observe` they give nearly what they were made of.

    Parameters
    ----------
    y
        ``(B, C, h, w)``, float, any unit.
    width, factor
        As in `observe`.
    span, noise
        As in `restoring`.

    Returns
    -------
    torch.Tensor
        ``(B, C, (h - 2 NEAR) * factor, (w - 2 NEAR) * factor)``.
    """
    weights = restoring(width, factor, span=span, noise=noise).to(y.dtype)
    for dim in (-1, -2):
        y = _restored(y, weights, dim)
    return y


def _restored(y: torch.Tensor, weights: torch.Tensor, dim: int) -> torch.Tensor:
    """Return `y` with fine pixels along one axis."""
    factor, near = weights.shape[-2:]
    count = y.shape[dim] - 2 * NEAR
    order = sorted(range(near), key=lambda n: -abs(n - NEAR))
    phases = []
    for p in range(factor):
        if 2 * p + 1 == factor:  # both sides at once, as in `_seen`
            terms = (
                (y.narrow(dim, n, count) + y.narrow(dim, near - 1 - n, count))
                * (weights[..., p, n, None, None] / (2 if n == NEAR else 1))
                for n in range(NEAR + 1)
            )
        else:  # the order of mirrored phases is mirrored too
            taps = order if 2 * p < factor else [near - 1 - n for n in order]
            terms = (
                y.narrow(dim, n, count) * weights[..., p, n, None, None] for n in taps
            )
        made = next(terms)
        for term in terms:
            made = made + term
        phases.append(made)
    return torch.stack(phases, dim).flatten(dim - 1, dim)
