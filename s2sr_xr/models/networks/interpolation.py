"""Interpolation as models: what every network has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from s2sr_xr.models.networks.resample import Upsample

if TYPE_CHECKING:
    from torch import nn

__all__ = ["interpolation"]


def interpolation(factor: int, kernel: Literal["nearest", "bicubic"]) -> nn.Module:
    """Return the model that makes each band `factor` times finer by itself.

    ``bicubic`` is Keys' kernel with a = -0.75 (torch's, harder to beat than MATLAB's
    -0.5), half-pixel centres. Takes and gives reflectance, ``(B, C, h, w)``.

    References
    ----------
    Keys (1981), Cubic convolution interpolation for digital image processing,
    IEEE TASSP 29(6), eq. 4 before its choice of a.
    """
    return Upsample(factor, kernel).eval()
