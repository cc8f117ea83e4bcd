"""Fine pixels brought nearer to the coarse ones that they were made from.

Seen by the coarse sensor, a result should be what that sensor saw. What it is not is
given back to it, block by block: an error that a network makes over ground unlike what
it was trained on, or that bf16 makes, is halved without any weights.

References
----------
Irani and Peleg (1991), Improving resolution by image registration, CVGIP 53(3): the
difference between what was seen and what would be is projected back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.models.networks.layers import centre, without
from s2sr_xr.models.networks.resample import Upsample

if TYPE_CHECKING:
    from s2sr_xr.models.networks.layers import Padding

__all__ = ["BackProjection"]


class BackProjection(nn.Module):
    """A result, and a share of what the coarse image says beyond it.

    Has no weights. The coarse sensor is that of `reduce_scale`, by which networks learn
    one scale below: blurred a little less than the real one, so that to take all that
    it says (a share of 1) costs sharpness at the scale of use.

    Parameters
    ----------
    factor
        Fine pixels along the side of a coarse one.
    share
        Of the difference, in (0, 1].
    padding
        ``"valid"`` loses the coarse pixels whose blur reaches beyond the result, one on
        each side, and what is not a whole one; ``"same"`` mirrors the result there.
    """

    def __init__(self, factor: int, share: float, padding: Padding = "valid") -> None:
        super().__init__()
        self.factor, self.share, self.padding = factor, share, padding
        self.repeat = Upsample(factor, "nearest")

    def extra_repr(self) -> str:
        """Return what `repr` says of this layer."""
        return f"{self.factor}, {self.share}, {self.padding!r}"

    def forward(self, made: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """Return the result ``(B, C, H, W)``, less its rim if ``"valid"``.

        Parameters
        ----------
        made
            ``(B, C, H, W)``, in any unit, finite.
        coarse
            ``(B, C, h, w)``, the same unit and ground, and as much more on every side.
        """
        k = self.factor
        lost = (coarse.shape[-1] * k - made.shape[-1]) // 2
        made = without(made, -lost % k)
        seen = reduce_scale(made, k)
        if self.padding == "valid":
            made, seen = without(made, k), without(seen, 1)
        more: torch.Tensor = self.repeat(centre(coarse, seen) - seen)
        return made + more.mul_(self.share)
