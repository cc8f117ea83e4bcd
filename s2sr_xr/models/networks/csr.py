"""CSR of L1BSR: where each pixel of one band lies in another.

The paper calls it a U-Net; the published network has no skip connections.

References
----------
Nguyen et al. (2023), L1BSR: Exploiting detector overlap for self-supervised
single-image super-resolution of Sentinel-2 L1B imagery, CVPR workshops,
section 3.1, eq. 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.layers import Conv
from s2sr_xr.models.networks.resample import Upsample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "CSR",
    "LONGEST",
    "SLOPE",
    "Registration",
    "band_flows",
    "from_published",
    "register_bands",
    "standardise",
    "warp",
]

LONGEST = 10.0
"""Longest shift along x or y, in pixels."""

SLOPE = 0.2
"""Of the leaky units below zero."""


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


class Registration(nn.Module):
    """A network that finds the flow of a pair, and what `register` runs of it."""

    def align(self, image: torch.Tensor, *, reference: int) -> torch.Tensor:
        """Return all bands on the `reference`, then the flow of each: y, and x.

        ``(B, 3 C, h, w)`` of ``(B, C, h, w)`` in any unit: C bands, then for each band
        its shifts in pixels, 0 for the reference.
        """
        bands, flow = register_bands(self, image, reference=reference)
        return torch.cat([bands, flow.flip(2).flatten(1, 2)], dim=1)


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


def standardise(image: torch.Tensor) -> torch.Tensor:
    """Return each channel of ``(B, C, h, w)`` with mean 0 and deviation 1.

    Over all pixels it is given: a tile with its halo is another image than its scene.
    A flat channel becomes 0, where the published code divides by 0.
    """
    std, mean = torch.std_mean(image, dim=(-2, -1), keepdim=True)
    return (image - mean) / torch.where(std > 0, std, torch.ones_like(std))


def warp(
    image: torch.Tensor,
    flow: torch.Tensor,
    kernel: Literal["bicubic", "bilinear"] = "bicubic",
) -> torch.Tensor:
    """Return `image` sampled where `flow` points, mirrored at the edge.

    Parameters
    ----------
    image
        (B, C, h, w), any unit.
    flow
        (B, 2, h, w), in pixels: x, then y.
    kernel
        How it is interpolated.

    Returns
    -------
    torch.Tensor
        (B, C, h, w): pixel (y, x) is `image` at (y + flow y, x + flow x).

    >>> ramp = torch.arange(9.0).expand(1, 1, 9, 9)
    >>> warp(ramp, torch.ones(1, 2, 9, 9))[0, 0, 4, 2:5]
    tensor([3., 4., 5.])
    """
    h, w = image.shape[-2:]
    columns = torch.arange(w, dtype=flow.dtype, device=flow.device)
    rows = torch.arange(h, dtype=flow.dtype, device=flow.device)[:, None]
    x = (flow[:, 0] + columns) * (2 / (w - 1)) - 1
    y = (flow[:, 1] + rows) * (2 / (h - 1)) - 1
    return F.grid_sample(
        image,
        torch.stack((x, y), dim=-1),
        mode=kernel,
        padding_mode="reflection",
        align_corners=True,
    )


def register_bands(
    network: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    *,
    reference: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `image` with every band aligned to the `reference`, and the flows.

    Parameters
    ----------
    network, image
        A `CSR`, and (B, C, h, w) in any unit.
    reference
        Index of the channel that stays as it is; 1 is green in B02, B03, B04, B08.

    Returns
    -------
    tuple
        (B, C, h, w) in the unit of `image`, and (B, C, 2, h, w) in pixels: x, then y;
        0 for the reference.
    """
    flow, out = band_flows(network, image, reference=reference), image.clone()
    for band in range(image.shape[1]):
        if band != reference:
            out[:, band, None] = warp(image[:, band, None], flow[:, band])
    return out, flow


def band_flows(
    network: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    *,
    reference: int = 1,
) -> torch.Tensor:
    """Return the flows of `register_bands` alone, ``(B, C, 2, h, w)``."""
    b, c, h, w = image.shape
    moving = [i for i in range(c) if i != reference]
    plain = standardise(image)
    anchor = plain[:, reference, None].expand(b, len(moving), h, w)
    pairs = torch.stack((anchor, plain[:, moving]), dim=2)
    flow = image.new_zeros(b, c, 2, h, w)
    # One band at a time: oneDNN may choose another kernel for another batch.
    for i, band in enumerate(moving):
        flow[:, band] = network(pairs[:, i])
    return flow


def from_published(checkpoint: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
    """Return the state dict of `CSR` in a published checkpoint, or `checkpoint`."""
    found: Mapping[str, torch.Tensor] = checkpoint.get("state_dictCSR", checkpoint)
    return found
