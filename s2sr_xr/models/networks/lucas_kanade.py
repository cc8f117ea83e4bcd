"""Registration by learned features and Lucas-Kanade: small, and right from the start.

The flow between two bands of a detector is smooth, so that it needs no network that
guesses it pixel by pixel: features that look alike in every band, a search for the
nearest whole pixel, and a few Gauss-Newton steps over windows find it. Only the
features are learnt. An encoder-decoder as large as CSR, trained as long on two cores,
is ten times less accurate.

References
----------
Lucas, Kanade (1981), An iterative image registration technique, IJCAI.
Baker, Matthews (2004), Lucas-Kanade 20 years on, IJCV 56(3): the inverse form.
Lv et al. (2019), Taking a deeper look at the inverse compositional algorithm, CVPR:
features and weights that are learnt through the iterations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.core.filters import block_mean, gaussian_blur
from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.layers import SLOPE, Conv
from s2sr_xr.models.networks.registration import LONGEST, Registration, warp

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LucasKanade"]

CELL = 4
"""Side of the cells that the equations are solved on, in pixels."""

LEAST = 1e-3
"""Added to the diagonal of the equations: where nothing is seen, nothing moves."""


class Features(nn.Module):
    """What looks alike in every band: structure of the gradient, and what is learnt.

    Parameters
    ----------
    width, made
        Channels inside, and channels that are learnt besides the three of the gradient.
    """

    def __init__(self, width: int, made: int) -> None:
        super().__init__()
        layers = [Conv(1, width, padding="same", edge="reflect")]
        for _ in range(3):
            layers += [Conv(width, width, padding="same", edge="reflect")]
        self.body = nn.ModuleList(layers)
        self.last = Conv(width, made + 1, padding="same", edge="reflect")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features ``(B, made + 3, h, w)`` and their weights ``(B, 1, h, w)``.

        Of ``(B, 1, h, w)``, standardised. Features have a mean square of 1 around.
        """
        y = x
        for layer in self.body:
            y = F.leaky_relu(layer(y), SLOPE)
        learnt = self.last(y)
        own = _levelled(torch.cat([learnt[:, :-1], 3 * _structure(x)], dim=1))
        return own, F.softplus(learnt[:, -1:])


def _structure(x: torch.Tensor) -> torch.Tensor:
    """Return strength and doubled direction of the gradient: its sign is left out."""
    along, down = _slopes(gaussian_blur(x, 1.0))
    strength = (along.square() + down.square() + 1e-12).sqrt()
    both = (along.square() - down.square(), 2 * along * down)
    return torch.cat([strength, *(b / strength for b in both)], dim=1)


def _levelled(x: torch.Tensor) -> torch.Tensor:
    around = block_mean(x.square().mean(1, keepdim=True), CELL)
    level = _finer(gaussian_blur(around, 2.0)).sqrt() + 1e-3
    return x / level


def _slopes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the central differences along x and y, clamped at the edge."""
    wide = F.pad(x, (1, 1, 0, 0), mode="replicate")
    high = F.pad(x, (0, 0, 1, 1), mode="replicate")
    return (wide[..., 2:] - wide[..., :-2]) / 2, (
        high[..., 2:, :] - high[..., :-2, :]
    ) / 2


def _finer(x: torch.Tensor) -> torch.Tensor:
    """Return cells as pixels, bilinear, by fixed sums."""
    for dim in (-1, -2):
        n = x.shape[dim]
        ends = [x.narrow(dim, 0, 1), x, x.narrow(dim, n - 1, 1)]
        padded = torch.cat(ends, dim)
        phases = []
        for k in range(CELL):
            t = (k + 0.5) / CELL - 0.5
            first = 0 if t < 0 else 1
            share = t + 1 if t < 0 else t
            a, b = (padded.narrow(dim, first + i, n) for i in range(2))
            phases.append(a * (1 - share) + b * share)
        x = torch.stack(phases, dim if dim == -1 else -2).flatten(dim - 1, dim)
    return x


class LucasKanade(Registration):
    """The flow from a reference band to a moving one.

    Parameters
    ----------
    width, made
        Of `Features`.
    window
        Standard deviation of the window that a flow is constant in, in pixels.
    blurs
        How smooth the features are in each round, in pixels; coarse first.
    steps
        Gauss-Newton steps of a round.
    """

    def __init__(
        self,
        *,
        width: int = 24,
        made: int = 8,
        window: float = 12.0,
        blurs: tuple[float, ...] = (1.5, 0.0),
        steps: int = 3,
    ) -> None:
        super().__init__()
        self.features = Features(width, made)
        self.window, self.blurs, self.steps = window, blurs, steps

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the shift ``(B, 2, h, w)`` of each pixel, in pixels: x, then y.

        ``pair`` is ``(B, 2, h, w)``: reference and moving band, both standardised;
        h and w are multiples of 4.
        """
        if any(n % CELL for n in pair.shape[-2:]):
            raise GridError(
                f"Both sides must be multiples of {CELL} pixels, got "
                f"{tuple(pair.shape[-2:])}"
            )
        own, weight = self.features(pair[:, :1])
        other, trust = self.features(pair[:, 1:])
        whole = _whole_shift((own * weight).detach(), (other * trust).detach())
        flow = whole[:, :, None, None].expand(-1, -1, *pair.shape[-2:])
        for blur in self.blurs:
            a, b = (gaussian_blur(f, blur) for f in (own, other))
            slopes = _slopes(a)
            along, down = slopes
            bends = [
                (p * q).sum(1, keepdim=True)
                for p, q in ((along, along), (along, down), (down, down))
            ]
            moving = torch.cat([b, trust], dim=1)
            for _ in range(self.steps):
                flow = self._step(a, slopes, bends, weight, moving, flow)
        return flow

    def _step(
        self,
        own: torch.Tensor,
        slopes: tuple[torch.Tensor, torch.Tensor],
        bends: Sequence[torch.Tensor],
        weight: torch.Tensor,
        moving: torch.Tensor,
        flow: torch.Tensor,
    ) -> torch.Tensor:
        """Return the flow after one Gauss-Newton step, in the inverse form."""
        seen = warp(moving, flow, "bilinear")
        error = own - seen[:, :-1]
        share = weight * seen[:, -1:] * _inside(flow)
        pulls = [(slope * error).sum(1, keepdim=True) for slope in slopes]
        sums = block_mean(share * torch.cat([*bends, *pulls], dim=1), CELL)
        sums = gaussian_blur(sums, self.window / CELL)
        xx, xy, yy, x, y = (sums[:, i, None] for i in range(5))
        xx, yy = xx + LEAST, yy + LEAST
        step = torch.cat([yy * x - xy * y, xx * y - xy * x], dim=1)
        step = (step / (xx * yy - xy * xy)).clamp(-1, 1)
        return (flow + _finer(step)).clamp(-LONGEST, LONGEST)


def _inside(flow: torch.Tensor) -> torch.Tensor:
    """Return 1 where a pixel is fetched from the image, 0 where from its mirror."""
    h, w = flow.shape[-2:]
    x = flow[:, :1] + torch.arange(w, dtype=flow.dtype, device=flow.device)
    y = flow[:, 1:] + torch.arange(h, dtype=flow.dtype, device=flow.device)[:, None]
    inside = (x >= 1) & (x <= w - 2) & (y >= 1) & (y <= h - 2)
    return inside.to(flow.dtype)


def _whole_shift(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the whole shift ``(B, 2)``, x and y, at which features agree best."""
    a, b = (torch.fft.rfft2(f - f.mean((-2, -1), keepdim=True)) for f in (own, other))
    agree = torch.fft.irfft2((a.conj() * b).sum(1), s=own.shape[-2:])
    most = int(LONGEST)
    reach = torch.arange(-most, most + 1, device=own.device)
    h, w = agree.shape[-2:]
    near = agree[:, reach % h][:, :, reach % w]
    best = near.flatten(1).argmax(1)
    side = 2 * most + 1
    return torch.stack([best % side, best // side], dim=1).to(own.dtype) - most
