"""Bands aligned by flows: what every registration network shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "LONGEST",
    "Registration",
    "band_flows",
    "register_bands",
    "standardise",
    "warp",
]

LONGEST = 10.0
"""Longest shift along x or y, in pixels."""


class Registration(nn.Module):
    """A network that finds the flow of a pair, and what `register` runs of it."""

    def align(self, image: torch.Tensor, *, reference: int) -> torch.Tensor:
        """Return all bands on the `reference`, then the flow of each: y, and x.

        ``(B, 3 C, h, w)`` of ``(B, C, h, w)`` in any unit: C bands, then for each band
        its shifts in pixels, 0 for the reference.
        """
        bands, flow = register_bands(self, image, reference=reference)
        return torch.cat([bands, flow.flip(2).flatten(1, 2)], dim=1)


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
