"""An error that bright and rough patches do not decide: over that of bicubic."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.models.networks.layers import centre
from s2sr_xr.models.networks.resample import Upsample

__all__ = ["bicubic", "over_bicubic"]

NOISE = 1e-3
"""Reflectance that is added to what bicubic errs by: what it gets right to less is
noise, and nothing to learn."""


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
