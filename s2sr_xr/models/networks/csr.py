"""CSR of L1BSR: where each pixel of one band lies in another.

The paper calls it a U-Net; the published network has no skip connections.

References
----------
Nguyen et al. (2023), L1BSR: Exploiting detector overlap for self-supervised
single-image super-resolution of Sentinel-2 L1B imagery, CVPR workshops,
section 3.1, eq. 2.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.layers import SLOPE, Conv
from s2sr_xr.models.networks.registration import LONGEST, Registration
from s2sr_xr.models.networks.resample import Upsample

__all__ = ["CSR"]


class ConvLeaky(nn.Module):
    """Two convolutions, each mirrored at the edge and activated."""

    def __init__(self, bands: int, features: int) -> None:
        super().__init__()
        self.conv1 = Conv(bands, features, padding="same", edge="reflect")
        self.conv2 = Conv(features, features, padding="same", edge="reflect")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, h, w)`` of ``(B, bands, h, w)``."""
        x = F.leaky_relu_(self.conv1(x), SLOPE)
        return F.leaky_relu_(self.conv2(x), SLOPE)


class Down(nn.Module):
    """Convolutions, then the largest of each 2 x 2 pixels."""

    def __init__(self, bands: int, features: int) -> None:
        super().__init__()
        self.convleaky = ConvLeaky(bands, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, h / 2, w / 2)``."""
        return F.max_pool2d(self.convleaky(x), 2)


class Up(nn.Module):
    """Convolutions, then pixels of half the side, bilinear and clamped at the edge."""

    def __init__(self, bands: int, features: int) -> None:
        super().__init__()
        self.convleaky = ConvLeaky(bands, features)
        self.twice = Upsample(2, "bilinear")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, 2 h, 2 w)``."""
        return self.twice.whole(self.convleaky(x))


class CSR(Registration):
    """The flow from a reference band to a moving one.

    Its modules have the names of the published state dict.

    Parameters
    ----------
    width, scales
        Channels of the first scale, which double with each; how many scales.
    """

    def __init__(self, *, width: int = 32, scales: int = 4) -> None:
        super().__init__()
        self.scales = scales
        down = [2, *(width << i for i in range(scales))]
        up = down[-1:] * 2 + [width << i for i in range(scales - 1, 0, -1)]
        for i in range(scales):
            self.add_module(f"convPool{i + 1}", Down(down[i], down[i + 1]))
            self.add_module(f"convBinl{i + 1}", Up(up[i], up[i + 1]))
        self.conv1 = Conv(up[-1], width, padding="same", edge="reflect")
        self.conv2 = Conv(width, 2, padding="same", edge="reflect")

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the shift ``(B, 2, h, w)`` of each pixel, in pixels: x, then y.

        ``pair`` is ``(B, 2, h, w)``: reference and moving band, both standardised;
        h and w are multiples of ``2 ** scales``.
        """
        step = 1 << self.scales
        if any(n % step for n in pair.shape[-2:]):
            raise GridError(
                f"CSR halves its image {self.scales} times: both sides must be "
                f"multiples of {step} pixels, got {tuple(pair.shape[-2:])}"
            )
        x = pair
        for kind in ("Pool", "Binl"):
            for i in range(self.scales):
                x = self.get_submodule(f"conv{kind}{i + 1}")(x)
        x = self.conv2(F.leaky_relu_(self.conv1(x), SLOPE))
        return x.tanh() * LONGEST  # type: ignore[no-any-return]
