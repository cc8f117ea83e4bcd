"""Errors that losses are made of: over that of bicubic, or in the spread of each band.

References
----------
Michel and Kalinicheva (2024), Building an operational shallow Sentinel-2 single image
super-resolution network for EvoLand prototypes, SUREDOS24: `band_loss`, `high_pass`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.layers import centre
from s2sr_xr.models.networks.resample import Upsample
from s2sr_xr.models.published import EVOLAND
from s2sr_xr.simulate.degrade import psf_downscale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2sr_xr.train.data.evoland_batches import Example

__all__ = ["SPREAD", "band_loss", "bicubic", "high_pass", "over_bicubic", "spread_loss"]

NOISE = 1e-3
"""Reflectance that is added to the error of bicubic: what it gets right to less than
that is noise, and nothing to learn."""

SPREAD = tuple(std for _, std in EVOLAND.values())
"""Deviation of each band in EvoLand's training set: the unit of a loss."""


def bicubic(coarse: torch.Tensor, factor: int) -> torch.Tensor:
    """Return ``(B, C, H, W)`` of ``(B, C, h, w)``, clamped at the edge; any unit."""
    up = Upsample(factor, "bicubic")
    fine: torch.Tensor = up(F.pad(coarse, (up.reach,) * 4, mode="replicate"))
    return fine


def over_bicubic(
    made: torch.Tensor, coarse: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Return RMSE over that of bicubic interpolation, of each band of each patch.

    Parameters
    ----------
    made
        (B, C, h, w), reflectance: the middle of `target`.
    coarse
        (B, C, H / k, W / k), what is interpolated by k.
    target
        (B, C, H, W), finite.

    Returns
    -------
    torch.Tensor
        (B, C).
    """
    truth = centre(target, made)
    with torch.no_grad():
        plain = centre(bicubic(coarse, target.shape[-1] // coarse.shape[-1]), made)
        yard = (plain - truth).square().mean((2, 3)).sqrt() + NOISE
    # The root has no slope at 0.
    error = (made - truth).square().mean((2, 3)) + 1e-10
    return error.sqrt() / yard


def band_loss(
    made: torch.Tensor, example: Example, edge: int, of: slice = slice(None)
) -> torch.Tensor:
    """Return the mean absolute error, each band in units of its spread.

    Parameters
    ----------
    made
        What the network gives, ten bands.
    example
        What it should have.
    edge
        Output pixels along the border that do not count: the network pads there, and
        never does in use.
    of
        Which channels of the target count.
    """
    bands = list(example.bands)[of]
    return spread_loss(made[:, bands], example.target[:, of], bands, edge)


def spread_loss(
    made: torch.Tensor, target: torch.Tensor, bands: Sequence[int], edge: int
) -> torch.Tensor:
    """Return the mean absolute error of some of the ten bands, in their spreads."""
    if min(made.shape[-2:]) <= 2 * edge:
        raise GridError(
            f"A border of {edge} pixels leaves nothing of {tuple(made.shape[-2:])}; "
            "use larger patches or a smaller edge."
        )
    inner = slice(edge, -edge or None)
    unit = torch.tensor([SPREAD[b] for b in bands]).to(made)[:, None, None]
    error: torch.Tensor = (made - target)[..., inner, inner] / unit
    return error.abs().mean()


def high_pass(x: torch.Tensor, mtf: float = 0.4) -> torch.Tensor:
    """Return what an image has beyond one with pixels twice as wide.

    The difference of `x` and the bicubic interpolation of `psf_downscale` by 2. Flat
    images give 0. `x` has even sides, 8 or more.
    """
    return x - bicubic(psf_downscale(x, 2, mtf), 2)
