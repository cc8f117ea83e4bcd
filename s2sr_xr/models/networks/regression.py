"""Local regression: what the fine bands say of the coarse ones, without any training.

Around each coarse pixel, every coarse band is a linear function of the fine bands as
coarse pixels would see them; the same function of what the fine bands have beyond that
is the detail that the coarse band lacks. It follows each scene, sea ice as well as
farmland, where weights know only what they were trained on. So a network that begins
from it has less to learn, and less to get wrong.

References
----------
Wang et al. (2015), Downscaling MODIS images with area-to-point regression kriging,
Remote Sensing of Environment 166: regression of coarse bands on fine ones. Here it is
local, and bicubic interpolation stands in for kriging.
He et al. (2013), Guided image filtering, IEEE TPAMI 35(6): the local linear model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from s2sr_xr.core.filters import mirrored, reduce_scale
from s2sr_xr.models.networks.layers import centre, without
from s2sr_xr.models.networks.resample import Upsample

if TYPE_CHECKING:
    from s2sr_xr.models.networks.layers import Inputs, Padding

__all__ = ["Guided", "Regression"]

RIDGE = 1e-2
"""Share of the fine bands' mean local variance that is added to each of them: where
they hardly vary, or say the same, weights stay small."""

FLOOR = 1e-7
"""Reflectance squared that is added too: below it a variance is noise."""

BLUR, WINDOW, SPREAD = 1, 2, 1
"""Cells that the blur, the window and the spread of weights take on each side: of the
last, one half."""


class Regression(nn.Module):
    """Bands of the last group on the pixels of the first, by local regression.

    Has no weights. The window is 5 x 5 cells, weighed 1-2-3-2-1 along each side.

    Parameters
    ----------
    inputs
        Bands and upsampling factor of each group, finest first; the last is made finer.
    padding
        ``"valid"`` loses less than `reach` cells a side, ``"same"`` mirrors the image
        at its edge.
    """

    reach = BLUR + WINDOW + SPREAD
    """Cells on each side that hold all it looks at."""

    def __init__(self, inputs: Inputs, padding: Padding = "valid") -> None:
        super().__init__()
        self.factor = inputs[-1][1]
        self.per_cell = tuple(self.factor // f for _, f in inputs)
        self.padding = padding
        self.smooth = nn.ModuleList(Upsample(k, "bicubic") for k in self.per_cell[:-1])
        self.finest = nn.ModuleList(
            Upsample(f, "nearest" if f == 1 else "bicubic") for _, f in inputs
        )
        self.spread = Upsample(self.factor, "bilinear")

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """Return ``(B, C of the last group, H, W)``, in the unit of the images.

        One ``(B, C, h, w)`` a group goes in, finite.
        """
        rows, cols = images[0].shape[-2:]
        if self.padding == "same":
            images = tuple(
                mirrored(mirrored(image, self.reach * k, -2), self.reach * k, -1)
                for image, k in zip(images, self.per_cell, strict=True)
            )
        *fine, coarse = images
        low = [
            without(reduce_scale(image, k), BLUR)
            for image, k in zip(fine, self.per_cell, strict=False)
        ]
        details = []
        for n, (image, seen) in enumerate(zip(fine, low, strict=True)):
            smooth = self.smooth[n](seen)
            details.append(self.finest[n](centre(image, smooth) - smooth))
        weights = self._spread(_weights(torch.cat(low, 1), without(coarse, BLUR)))
        least = min((weights[0], *details), key=lambda image: image.shape[-1])
        weights = centre(weights, least)
        out: torch.Tensor = centre(self.finest[-1](coarse), least).clone()
        first = 0
        for detail in details:
            for c, one in enumerate(centre(detail, least).unbind(1), first):
                out += weights[:, c] * one[:, None]
            first += detail.shape[1]
        if self.padding == "same":
            top, left = (out.shape[-2] - rows) // 2, (out.shape[-1] - cols) // 2
            return out[..., top : top + rows, left : left + cols]
        return out

    def _spread(self, weights: torch.Tensor) -> torch.Tensor:
        """Return weights ``(B, P, C, h, w)`` on the finest pixels."""
        batch, many, made = weights.shape[:3]
        spread = self.spread.whole(weights.flatten(1, 2))
        # The inner half of an edge cell lies between two that are known.
        known = without(spread, self.factor // 2)
        return known.reshape(batch, many, made, *known.shape[-2:])


class Guided(nn.Module):
    """Two band groups on the pixels of the finer, the coarser by local regression.

    As `s2sr_xr.models.networks.layers.Joint`, which interpolates.
    """

    def __init__(self, inputs: Inputs, padding: Padding) -> None:
        super().__init__()
        self.regression = Regression(inputs, padding)

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """Return ``(B, C of both, H, W)`` of one ``(B, C, h, w)`` each, same unit."""
        coarse = self.regression(*images)
        return torch.cat((centre(images[0], coarse), coarse), 1)


def _weights(low: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Return what each fine band counts for each coarse one, cell by cell.

    ``(B, P, h, w)`` and ``(B, C, h, w)`` give ``(B, P, C, h - 4, w - 4)``. In float64:
    variances are small differences of squares.
    """
    x, y = low.double(), coarse.double()
    x_mean, y_mean = _window(x), _window(y)
    own = _window(x[:, :, None] * x[:, None]) - x_mean[:, :, None] * x_mean[:, None]
    both = _window(x[:, :, None] * y[:, None]) - x_mean[:, :, None] * y_mean[:, None]
    own, both = (m.permute(0, 3, 4, 1, 2) for m in (own, both))
    level = own.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    ridge = (RIDGE * level + FLOOR) * torch.eye(x.shape[1]).to(own)
    found: torch.Tensor = torch.linalg.solve(own + ridge, both)
    return found.permute(0, 3, 4, 1, 2).to(low.dtype)


def _window(x: torch.Tensor) -> torch.Tensor:
    """Return weighed means over windows of 5 x 5, without the outer 2 pixels."""
    # Slices in a fixed order: a reduction may add up differently for another shape.
    for _ in range(2):
        x = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
        x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    return x / 81
