"""A network that separates real fine images from made ones, in the adversarial stage.

References
----------
Wang et al. (2021), Real-ESRGAN: Training real-world blind super-resolution with pure
synthetic data, ICCV workshops, section 3.3, figure 6.
Miyato et al. (2018), Spectral normalization for generative adversarial networks, ICLR,
section 2.1.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrizations import spectral_norm

from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.layers import SLOPE
from s2sr_xr.models.networks.resample import Upsample

if TYPE_CHECKING:
    import torch

__all__ = ["Discriminator"]


def _normed(bands: int, features: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """Return a convolution without bias whose largest gain is 1."""
    conv = nn.Conv2d(bands, features, kernel, stride, padding=1, bias=False)
    return spectral_norm(conv)  # type: ignore[no-any-return, unused-ignore]


class Discriminator(nn.Module):
    """How real each pixel looks: a U-Net of three scales with spectral norm.

    Parameters
    ----------
    bands
        Channels of the images it judges.
    features
        Channels of the first scale: 32 in EvoLand's experiments, 64 in Real-ESRGAN.
    skips
        Add the image of each scale on the way up, as Real-ESRGAN does; one of EvoLand's
        settings does not.
    """

    def __init__(self, bands: int, *, features: int = 32, skips: bool = True) -> None:
        super().__init__()
        widths = [features << i for i in range(4)]
        steps = list(itertools.pairwise(widths))
        self.skips = skips
        self.head = nn.Conv2d(bands, features, 3, padding=1)
        self.down = nn.ModuleList(_normed(n, m, 4, 2) for n, m in steps)
        self.twice = Upsample(2, "bilinear")
        self.up = nn.ModuleList(_normed(m, n) for n, m in reversed(steps))
        self.last = nn.ModuleList(_normed(features, features) for _ in range(2))
        self.tail = nn.Conv2d(features, 1, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, 1, h, w)`` of standardised ``(B, bands, h, w)``.

        h and w are multiples of 8; large means real.
        """
        if image.shape[-2] % 8 or image.shape[-1] % 8:
            raise GridError(
                "The discriminator halves its image three times: both sides must be "
                f"multiples of 8 pixels, got {tuple(image.shape[-2:])}"
            )
        x = F.leaky_relu(self.head(image), SLOPE)
        scales = []
        for down in self.down:
            scales.append(x)
            x = F.leaky_relu(down(x), SLOPE)
        for up in self.up:
            x = F.leaky_relu(up(self.twice.whole(x)), SLOPE)
            if self.skips:
                x = x + scales.pop()
        for layer in self.last:
            x = F.leaky_relu(layer(x), SLOPE)
        return self.tail(x)  # type: ignore[no-any-return]
