"""Coarse bands as far as finer bands explain them, through each band's point spread.

Around each coarse pixel a band is a linear function of what its own sensor would see of
the fine bands (`observe`, of the band's own width). That function of the fine bands
themselves is what they explain of it; the rest comes from the coarse pixels alone
(`restore`), as far as it is more than noise. There are no weights to learn. Bands of a
product lie a fraction of a pixel beside each other: how much, is told by the same
regression with the band's own slope among what it may use, and taken out.

References
----------
Wang et al. (2015), Downscaling MODIS images with area-to-point regression kriging,
Remote Sensing of Environment 166: regression, then the residual by kriging. Here it is
local, sees through the point spread, and a residual counts as far as it is signal.
He et al. (2013), Guided image filtering, IEEE TPAMI 35(6): the local linear model.
Lucas and Kanade (1981), IJCAI: a small shift is a share of the slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import nn

from s2sr_xr.models.networks.layers import centre, without
from s2sr_xr.models.networks.resample import Upsample
from s2sr_xr.models.networks.sensor import NEAR, SEEN, observe, restore

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NOISE", "Explained", "Known"]

RIDGE = 5e-4
"""Share of the fine bands' mean local variance that is added to each of them: where
they say the same, weights stay small."""

FLOOR = 2e-7
"""Reflectance squared that is added too: below it a variance is noise."""

NOISE = 1e-3
"""Deviation of a coarse pixel's noise, in reflectance: the sensor has 4e-4 to 1e-3, and
what no model says is on top."""

SHIFT = 0.1
"""Coarse pixels that a band is likely to lie beside the fine ones."""

DOUBT = 7.0
"""A misfit is not white, and tells so many times less of a shift than if it were."""

WINDOW, WIDE = 3, 6
"""Coarse pixels from the middle of a window to where its weights, a triangle's, are 0:
of the regression, and of that which tells the shift."""

SPREAD = 1
"""Coarse pixels on each side that the interpolation of weights takes."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of coarse bands on fine pixels; each of its own, smaller ground."""

    made: torch.Tensor
    """``(B, C, H, W)``: the bands, fine."""

    rest: torch.Tensor
    """``(B, C, H, W)``: what of `made` the fine bands do not explain."""

    coarse: torch.Tensor
    """``(B, C, h, w)``: the coarse bands, put beside the fine ones."""

    gain: torch.Tensor
    """``(B, C, h, w)``: share of a misfit that is signal, in [0, 1]."""

    misfit: torch.Tensor
    """``(B, C, H, W)``: root mean square, around, of what is not explained."""


class Explained(nn.Module):
    """Coarse bands on fine pixels, by regression through the sensor, without weights.

    A valid convolution: less than `reach` coarse pixels are lost on each side.

    Parameters
    ----------
    factor
        Fine pixels along the side of a coarse one.
    groups
        Coarse bands whose sensor sees the fine bands alike: they share one regression,
        of their mean width. None: all of them.
    noise
        Deviation of a coarse pixel's noise, in the unit of the images.
    align
        Whether bands may lie beside the fine ones.
    """

    def __init__(
        self,
        factor: int,
        *,
        groups: Sequence[int] | None = None,
        noise: float = NOISE,
        align: bool = True,
    ) -> None:
        super().__init__()
        self.factor, self.noise, self.align = factor, noise, align
        self.groups = groups
        self.spread = Upsample(factor, "bilinear")

    @property
    def reach(self) -> int:
        """Coarse pixels on each side that hold all it looks at."""
        aligning = WIDE - 1 if self.align else 0
        return 2 * SEEN + aligning + 2 * (WINDOW - 1) + SPREAD + NEAR

    def extra_repr(self) -> str:
        """Return what `repr` says of this layer."""
        return f"{self.factor}, noise={self.noise}, align={self.align}"

    def forward(
        self, fine: torch.Tensor, coarse: torch.Tensor, width: torch.Tensor
    ) -> Known:
        """Return what is known of the coarse bands.

        Parameters
        ----------
        fine, coarse
            ``(B, P, h * factor, w * factor)`` and ``(B, C, h, w)`` of one ground, one
            unit, finite.
        width
            ``(B, C)`` or ``(C,)``: what a coarse pixel of each band sees, in fine
            pixels (`sensor.pixels_of`).
        """
        width = width.expand(coarse.shape[:2])
        counts = list(self.groups or (coarse.shape[1],))
        parts = [
            self._group(fine, bands, widths)
            for bands, widths in zip(
                torch.split(coarse, counts, 1),
                torch.split(width, counts, 1),
                strict=True,
            )
        ]
        return Known(*(torch.cat(p, 1) for p in zip(*parts, strict=True)))

    def _group(
        self, fine: torch.Tensor, coarse: torch.Tensor, width: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        k, batch, seen_by = self.factor, len(fine), width.mean(1, keepdim=True)
        low, own = observe(fine, seen_by, k), without(coarse, SEEN)
        if self.align:
            own = _beside(low, coarse, self.noise)
            low = centre(low, own)
        weights, level, base = _fitted(low, own)
        many, bands = weights.shape[1:3]
        known = self.spread(torch.cat((weights.flatten(1, 2), level, base), 1))
        slopes, level, base = torch.split(known, [many * bands, many, bands], 1)
        slopes = slopes.reshape(batch, many, bands, *slopes.shape[-2:])
        made = base
        for n, band in enumerate((centre(fine, level) - level).unbind(1)):
            made = made + slopes[:, n] * band[:, None]
        seen = observe(made, width, k)
        left = centre(own, seen) - seen
        power = _window(left.double().square(), WINDOW)
        gain = ((power - self.noise**2).clamp(min=0) / (power + 1e-12)).to(made)
        rest = restore(centre(left, gain) * gain, width, k)
        misfit = self.spread((power + 1e-10).sqrt().to(made))
        return centre(made, rest) + rest, rest, own, gain, misfit


def _beside(low: torch.Tensor, own: torch.Tensor, noise: float) -> torch.Tensor:
    """Return coarse bands put where the fine ones are, without the outer pixels.

    In wide windows a band is a function of the fine bands and of its own slopes; what
    it takes of these is its shift, which is more likely small than not.
    """
    batch, bands = own.shape[:2]
    down = (own[..., 2:, 1:-1] - own[..., :-2, 1:-1]) / 2
    right = (own[..., 1:-1, 2:] - own[..., 1:-1, :-2]) / 2
    parts = torch.stack((without(own, 1), down, right), 2)
    # As much is lost here as the sensor's view has lost already, and less.
    parts = centre(parts.flatten(1, 2), low).reshape(batch, bands, 3, *low.shape[-2:])
    x, v = low.double(), parts.double()
    x_mean, v_mean = _window(x, WIDE), _window(v.flatten(1, 2), WIDE)
    xx = _products(x, x, x_mean, x_mean, WIDE)
    xv = _products(x, v.flatten(1, 2), x_mean, v_mean, WIDE)
    of = (batch, -1, bands, 3, *xv.shape[-2:])
    solved, xv, v_mean = (t.reshape(of) for t in (_solved(xx, xv), xv, v_mean))

    def left(i: int, j: int) -> torch.Tensor:
        """Return what the fine bands do not explain of the product of two parts."""
        both = _window(v[:, :, i] * v[:, :, j], WIDE)
        means = v_mean[:, 0, :, i] * v_mean[:, 0, :, j]
        told = solved[:, :, :, i] * xv[:, :, :, j]
        return both - means - reduce(torch.add, told.unbind(1))

    taps = _triangle(WIDE)
    many = sum(taps) ** 4 / sum(t * t for t in taps) ** 2  # as good as so many pixels
    doubt = left(0, 0).clamp(min=0) + noise**2
    doubt = doubt * (DOUBT / many / SHIFT**2)
    a, b, c = left(1, 1) + doubt, left(1, 2), left(2, 2) + doubt
    d, e = left(1, 0), left(2, 0)
    whole = a * c - b * b
    inner, down, right = (
        without(parts.flatten(1, 2), WIDE - 1).reshape(of[:1] + of[2:]).unbind(2)
    )
    shift = ((c * d - b * e) / whole).to(own), ((a * e - b * d) / whole).to(own)
    return inner - (shift[0] * down + shift[1] * right)


def _fitted(
    low: torch.Tensor, own: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, cell by cell, what each fine band counts for each coarse one; means.

    ``(B, P, h, w)`` and ``(B, C, h, w)`` give ``(B, P, C, h - 4, w - 4)`` and both
    images' means around. In float64: variances are small differences of squares.
    """
    x, y = low.double(), own.double()
    x_mean, y_mean = _window(x, WINDOW), _window(y, WINDOW)
    xx = _products(x, x, x_mean, x_mean, WINDOW)
    xy = _products(x, y, x_mean, y_mean, WINDOW)
    found = _solved(xx, xy)
    return found.to(low), x_mean.to(low), y_mean.to(low)


def _solved(own: torch.Tensor, both: torch.Tensor) -> torch.Tensor:
    """Return what each of P counts for each of C, ``(B, P, C, h, w)``.

    Of covariances ``(B, P, P, h, w)`` and ``(B, P, C, h, w)``.
    """
    own, both = (t.permute(0, 3, 4, 1, 2) for t in (own, both))
    level = own.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    ridge = (RIDGE * level + FLOOR) * torch.eye(own.shape[-1]).to(own)
    found: torch.Tensor = torch.linalg.solve(own + ridge, both)
    return found.permute(0, 3, 4, 1, 2)


def _products(
    x: torch.Tensor,
    y: torch.Tensor,
    x_mean: torch.Tensor,
    y_mean: torch.Tensor,
    half: int,
) -> torch.Tensor:
    """Return the covariances ``(B, P, C, h, w)`` of each with each, around."""
    both = _window((x[:, :, None] * y[:, None]).flatten(1, 2), half)
    means = x_mean[:, :, None] * y_mean[:, None]
    return both.reshape(means.shape) - means


def _triangle(half: int) -> list[int]:
    """Return the weights of a window along a line.

    >>> _triangle(3)
    [1, 2, 3, 2, 1]
    """
    return [half - abs(n) for n in range(1 - half, half)]


def _window(x: torch.Tensor, half: int) -> torch.Tensor:
    """Return means weighed by a triangle, without the outer ``half - 1`` pixels."""
    # Slices in a fixed order: a reduction may add up differently for another shape.
    # A triangle is two rows of `half` ones, one after the other.
    for _ in range(2):
        for dim in (-2, -1):
            x = _row(x, half, dim)
    return x / half**4


def _row(x: torch.Tensor, count: int, dim: int) -> torch.Tensor:
    """Return sums of `count` neighbours along `dim`, by few additions."""
    size = x.shape[dim] - count + 1
    total, done, sums, length = None, 0, x, 1
    while True:
        if count & length:
            part = sums.narrow(dim, done, size)
            total = part if total is None else total + part
            done += length
        if 2 * length > count:
            assert total is not None
            return total
        many = sums.shape[dim] - length
        sums = sums.narrow(dim, 0, many) + sums.narrow(dim, length, many)
        length *= 2
