"""Bands standardised by the mean and deviation of a training set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from torch import nn

from s2sr_xr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Standard", "set_constants"]


class Standard(nn.Module):
    """Reflectance to units of the training set, and back.

    Constants, not weights: they are not part of the state dict. `mean` and `std` are of
    each band, in reflectance.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            column = torch.tensor(values).reshape(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, C, h, w)`` with mean 0 and deviation 1, in the memory of `x`."""
        return x.sub_(self.mean).div_(self.std)

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        """Return the reflectance of a standardised `x`, in its memory."""
        return x.mul_(self.std).add_(self.mean)


def set_constants(network: nn.Module, name: str, text: str) -> None:
    """Give a network the mean and deviation of its bands that a header gives.

    Raises
    ------
    ModelError
        They are not one positive deviation and one mean for each band.
    """
    standard = getattr(network, "standard", None)
    try:
        given = json.loads(text)
        mean, std = (torch.tensor([*map(float, given[k])]) for k in ("mean", "std"))
        for have, new in ((standard.mean, mean), (standard.std, std)):  # type: ignore[union-attr]
            have.copy_(new.reshape(have.shape))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{name}: its constants cannot be used: {error}.") from error
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise ModelError(f"{name}: its constants are not finite and positive: {text}")
