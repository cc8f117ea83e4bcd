"""REC of L1BSR: four raw bands, aligned to green and twice as fine. An RCAN.

Channel attention averages over all that the network sees, so the tile with its halo is
part of the definition, and the convolutions keep their zero padding.

References
----------
Nguyen et al. (2023), L1BSR: Exploiting detector overlap for self-supervised
single-image super-resolution of Sentinel-2 L1B imagery, CVPR workshops,
section 3.1, eq. 1.
Zhang et al. (2018), Image super-resolution using very deep residual channel attention
networks, ECCV, section 3.
"""

from __future__ import annotations

import torch
from torch import nn

from s2sr_xr.models.networks.layers import Conv

__all__ = ["REC"]

SCALE = 400.0
"""Counts are divided by this."""


def _conv(bands: int, features: int) -> Conv:
    return Conv(bands, features, padding="same")


class Attention(nn.Module):
    """Channels weighed by what their means say (RCAN, eq. 9)."""

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__()
        few = features // reduction
        self.conv_du = nn.Sequential(
            Conv(features, few, 1),
            nn.ReLU(inplace=True),
            Conv(few, features, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, ``(B, features, h, w)``, each channel times 0..1."""
        return x * self.conv_du(x.mean((-2, -1), keepdim=True))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Layers in a row, added to their input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, h, w)`` of the same."""
        return self.body(x).add_(x)  # type: ignore[no-any-return]


class REC(nn.Module):
    """Four bands of one detector, aligned to green, with pixels of half the side.

    Its modules have the names of the published state dict.

    Parameters
    ----------
    bands
        Channels in and out.
    features, groups, blocks, reduction
        Channels inside; residual groups; attention blocks in each; how many channels
        the attention squeezes into one.
    """

    def __init__(
        self,
        *,
        bands: int = 4,
        features: int = 64,
        groups: int = 10,
        blocks: int = 20,
        reduction: int = 16,
    ) -> None:
        super().__init__()

        def block() -> Residual:
            return Residual(
                _conv(features, features),
                nn.ReLU(inplace=True),
                _conv(features, features),
                Attention(features, reduction),
            )

        def group() -> Residual:
            inner = (block() for _ in range(blocks))
            return Residual(*inner, _conv(features, features))

        self.head = nn.Sequential(_conv(bands, features))
        self.body = nn.Sequential(
            *(group() for _ in range(groups)), _conv(features, features)
        )
        self.tail = nn.Sequential(
            nn.Sequential(_conv(features, 4 * features), nn.PixelShuffle(2)),
            _conv(features, bands),
        )

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """Return counts ``(B, bands, 2 h, 2 w)`` of raw counts ``(B, bands, h, w)``."""
        x = self.head(counts / SCALE)
        return self.tail(self.body(x).add_(x)).mul_(SCALE)  # type: ignore[no-any-return]
