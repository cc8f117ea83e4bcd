"""DSen2 and VDSen2: 20 m and 60 m bands at 10 m.

References
----------
Lanaras et al. (2018), Super-resolution of Sentinel-2 images: Learning a globally
applicable deep neural network, ISPRS Journal 146, sections 4.2-4.4, algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.models.back_projection import BackProjection
from s2sr_xr.models.layers import Conv, Joint, centre
from s2sr_xr.models.regression import Regression

if TYPE_CHECKING:
    from s2sr_xr.models.layers import Inputs, Padding

__all__ = ["DSen2"]

SCALE = 5.0
"""Reflectance times this is what the network sees: counts / 2000."""


class ResBlock(nn.Module):
    """Two convolutions whose sum with the input is damped by 0.1 (eq. 5)."""

    def __init__(self, features: int, padding: Padding) -> None:
        super().__init__()
        self.conv1 = Conv(features, features, padding=padding)
        self.conv2 = Conv(features, features, padding=padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, h - 4, w - 4)``, or all of ``(B, features, h, w)``."""
        # Scaled, then added: one fused operation rounds the ends of rows differently.
        # Under autocast the convolutions run in bf16; what is summed up stays float32.
        y = self.conv2(F.relu_(self.conv1(x))).to(x.dtype).mul_(0.1)
        return y.add_(centre(x, y))  # type: ignore[no-any-return]


class DSen2(nn.Module):
    """Bands of the last group on the pixels of the first.

    Coarse groups are interpolated bilinearly, as published code does (not the paper),
    and what the network gives is added to that. The published networks have no `guide`
    and no `project`.

    Parameters
    ----------
    inputs
        Bands and upsampling factor of each group, finest first:
        ``((4, 1), (6, 2))`` for 20 m bands, ``((4, 1), (6, 2), (2, 6))`` for 60 m.
    features, blocks
        128 and 6 are DSen2, 256 and 32 VDSen2.
    guide
        The network sees what local regression makes of the bands too, and adds to that
        instead.
    project
        Share of what the coarse bands say beyond the result that it is given back
        (`BackProjection`); 0: none.
    padding
        ``"same"`` pads with zeros.
    """

    def __init__(
        self,
        inputs: Inputs,
        *,
        features: int = 128,
        blocks: int = 6,
        guide: bool = False,
        project: float = 0.0,
        padding: Padding = "valid",
    ) -> None:
        super().__init__()
        self.made = inputs[-1][0]
        self.joint = Joint(inputs, "bilinear", padding)
        self.guide = Regression(inputs, padding) if guide else None
        seen = sum(n for n, _ in inputs) + self.made * guide
        self.head = Conv(seen, features, padding=padding, end=True)
        self.trunk = nn.Sequential(
            *(ResBlock(features, padding) for _ in range(blocks))
        )
        self.tail = Conv(features, self.made, padding=padding)
        self.project = (
            BackProjection(inputs[-1][1], project, padding) if project else None
        )
        for layer in self.modules():
            if isinstance(layer, Conv):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """Return reflectance ``(B, C of the last group, H, W)`` on the finest pixels.

        One reflectance stack ``(B, C, h, w)`` a group goes in; ``"valid"`` gives the
        centre of the same ground.
        """
        x = self.joint(*images)
        if self.guide is not None:
            guided = self.guide(*images)
            x = torch.cat((centre(x, guided), guided), 1)
        x = x.mul_(SCALE)
        y = self.trunk(F.relu_(self.head(x)).to(x.dtype))
        y = self.tail(y).to(x.dtype)
        y.add_(centre(x[:, -self.made :], y)).div_(SCALE)
        if self.project is not None:
            y = self.project(y, images[-1])
        return y  # type: ignore[no-any-return]
