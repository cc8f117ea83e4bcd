"""The shallow ESRGAN generator as EvoLand uses it.

Unlike the reference, the last convolution of a dense block is activated too.

References
----------
Wang et al. (2018), ESRGAN: Enhanced super-resolution generative adversarial networks,
ECCV workshops, section 3.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.errors import ModelError
from s2sr_xr.models.networks.layers import SLOPE, Conv, Inputs, Joint, Padding, centre
from s2sr_xr.models.networks.resample import Upsample
from s2sr_xr.models.networks.standard import Standard

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RRDBNet"]


def _scale() -> nn.Parameter:
    """Return the weight of a residual: counted, saved and loaded, never trained."""
    return nn.Parameter(torch.tensor(0.2), requires_grad=False)


class Dense(nn.Module):
    """Five convolutions, each of which sees all before it, added to their input."""

    def __init__(self, features: int, growth: int, padding: Padding) -> None:
        super().__init__()
        widths = [growth] * 4 + [features]
        self.convs = nn.ModuleList(
            Conv(features + i * growth, n, padding=padding)
            for i, n in enumerate(widths)
        )
        self.scale = _scale()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, h - 10, w - 10)``, or all of the image."""
        *inner, last = self.convs
        seen = x
        for conv in inner:
            y = F.leaky_relu_(conv(seen), SLOPE)
            seen = torch.cat((centre(seen, y), y), dim=1)
        y = F.leaky_relu_(last(seen), SLOPE)
        return (y * self.scale).add_(centre(x, y))


class RRDB(nn.Module):
    """Three dense blocks, added to their input."""

    def __init__(self, features: int, growth: int, padding: Padding) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            *(Dense(features, growth, padding) for _ in range(3))
        )
        self.scale = _scale()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, h - 30, w - 30)``, or all of the image."""
        y = self.dense(x)
        return (y * self.scale).add_(centre(x, y))  # type: ignore[no-any-return]


class RRDBNet(nn.Module):
    """All bands of all groups, 2 or 4 times as fine as the finest.

    Parameters
    ----------
    inputs
        Bands and upsampling factor of each group, finest first.
    factor
        Output pixels along the side of the finest input pixel: 2, 4, 8 ...
    features, growth, blocks
        Channels; channels that each dense convolution adds; RRDBs.
    mean, std
        Of each band, in reflectance.
    padding
        ``"same"`` pads with zeros.

    Raises
    ------
    ModelError
        `factor` is not 2 or a higher power of it.
    """

    def __init__(
        self,
        inputs: Inputs = ((4, 1), (6, 2)),
        *,
        factor: int = 2,
        features: int = 64,
        growth: int = 32,
        blocks: int = 3,
        mean: Sequence[float],
        std: Sequence[float],
        padding: Padding = "valid",
    ) -> None:
        super().__init__()
        if factor < 2 or factor & (factor - 1):
            raise ModelError(f"factor is a power of 2: 2, 4, 8 ...; got {factor}")
        bands = sum(n for n, _ in inputs)

        def conv(made: int = features) -> Conv:
            return Conv(features, made, padding=padding)

        self.joint = Joint(inputs, "bicubic", padding)
        self.standard = Standard(mean, std)
        self.head = Conv(bands, features, padding=padding)
        self.trunk = nn.Sequential(
            *(RRDB(features, growth, padding) for _ in range(blocks)), conv()
        )
        self.twice = Upsample(2, "nearest")
        octaves = factor.bit_length() - 1
        self.octaves = nn.ModuleList(conv() for _ in range(octaves))
        self.fine = conv()
        self.tail = conv(bands)

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """Return reflectance ``(B, C of all groups, factor * H, factor * W)``.

        One reflectance stack ``(B, C, h, w)`` a group goes in; ``"valid"`` gives the
        centre of the same ground.
        """
        x = self.head(self.standard(self.joint(*images)))
        y = self.trunk(x)
        y.add_(centre(x, y))
        for octave in self.octaves:
            y = F.leaky_relu_(octave(self.twice(y)), SLOPE)
        return self.standard.undo(self.tail(F.leaky_relu_(self.fine(y), SLOPE)))
