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

from s2sr_xr.models.networks.back_projection import BackProjection
from s2sr_xr.models.networks.layers import Conv, Joint, centre
from s2sr_xr.models.networks.regression import Regression

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2sr_xr.models.networks.layers import Inputs, Padding

__all__ = ["DSen2"]

SCALE = 5.0
"""Reflectance times this is what the network sees: counts / 2000."""


class Rectify(nn.Module):
    """What is below the floor becomes the floor: 0, or one of each feature."""

    floor: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("floor", None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, any shape ``(B, C, h, w)``, in its memory."""
        if self.floor is None:
            return F.relu_(x)
        return x.clamp_min_(self.floor.to(x.dtype))

    def sink(self, by: torch.Tensor, like: Conv) -> None:
        """Put the floor that much below 0, one a feature, where the layer lives."""
        self.floor = -by.float().view(1, -1, 1, 1).to(like.weight.device)


class ResBlock(nn.Module):
    """Two convolutions whose sum with the input is damped by 0.1 (eq. 5)."""

    def __init__(self, features: int, padding: Padding) -> None:
        super().__init__()
        self.conv1 = Conv(features, features, padding=padding)
        self.conv2 = Conv(features, features, padding=padding)
        self.rectify = Rectify()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, h - 4, w - 4)``, or all of ``(B, features, h, w)``."""
        # Scaled, then added: one fused operation rounds the ends of rows differently.
        # Under autocast the convolutions run in bf16; what is summed up stays float32.
        y = self.conv2(self.rectify(self.conv1(x))).to(x.dtype).mul_(0.1)
        return y.add_(centre(x, y))  # type: ignore[no-any-return]

    @torch.no_grad()
    def centre_on(self, flat: torch.Tensor) -> torch.Tensor:
        """Count features from `flat`, those of a flat scene; return those it gives."""
        inner = _of_flat(self.conv1, flat)
        # As the second convolution is given it, so that nothing is lost by rounding it.
        kept = inner.relu().bfloat16().to(flat)
        given = flat + 0.1 * _of_flat(self.conv2, kept)
        self.conv1.bias.copy_(inner - kept)  # type: ignore[union-attr]
        self.conv2.bias.zero_()  # type: ignore[union-attr]
        self.rectify.sink(kept, self.conv1)
        return given


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
        self.rectify = Rectify()
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
        y = self.trunk(self.rectify(self.head(x)).to(x.dtype))
        y = self.tail(y).to(x.dtype)
        y.add_(centre(x[:, -self.made :], y)).div_(SCALE)
        if self.project is not None:
            y = self.project(y, images[-1])
        return y  # type: ignore[no-any-return]

    @torch.no_grad()
    def centre_on(self, flat: Sequence[float]) -> None:
        """Count features from those of a flat scene: less to round in bf16.

        A convolution of what lies a constant lower gives what lies another constant
        lower, which goes to its bias; the floor of a ReLU sinks with it. Results stay
        the same. A network that pads is left as it is: zeros at an edge would not be
        zeros any more; so is one that does it already. It must not be saved: floors are
        no weights.

        Parameters
        ----------
        flat
            Reflectance of each band, in the order of the input.
        """
        if self.head.pad or self.rectify.floor is not None:
            return
        guided = flat[-self.made :] if self.guide is not None else ()
        bands = torch.tensor([*flat, *guided], dtype=torch.float64) * SCALE
        kept = _of_flat(self.head, bands).relu()
        self.head.bias.sub_(kept.to(self.head.weight))  # type: ignore[union-attr]
        self.rectify.sink(kept, self.head)
        for block in self.trunk:
            kept = block.centre_on(kept)  # type: ignore[operator]
        self.tail.bias.copy_(_of_flat(self.tail, kept))  # type: ignore[union-attr]


def _of_flat(layer: Conv, features: torch.Tensor) -> torch.Tensor:
    """Return what a convolution makes of an image that is flat, in float64.

    On the CPU: not every device knows float64.
    """
    weight, bias = (p.cpu().double() for p in (layer.weight, layer.bias))  # type: ignore[union-attr]
    return weight.sum((2, 3)) @ features + bias
