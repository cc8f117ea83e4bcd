"""Bands of 60 m at 10 m: 20 m bands are made first, and tell of them too.

What looks like B09 is B8A, not B08, and a band that is made has the pixels of the fine
ones. The bands of short-wave infrared are made worst, and do not guide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from s2sr_xr.models.networks.explained import Explained, Known
from s2sr_xr.models.networks.layers import centre, without
from s2sr_xr.models.networks.sensor import pixels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2sr_xr.models.networks.unrolled import Unrolled

__all__ = ["Cascade"]


class Cascade(nn.Module):
    """Bands of the last of three groups on the pixels of the first.

    Parameters
    ----------
    first
        Makes the bands of the second group on the pixels of the first.
    factor
        Fine pixels along the side of one of the last group.
    width
        Metres: what the sensor of each band of the last group sees, beside the fine
        bands (`pixels_of`); until `set_widths` says otherwise.
    guides
        So many bands of the second group, from its first on, guide.
    """

    width: torch.Tensor

    def __init__(
        self,
        first: Unrolled,
        *,
        width: Sequence[float],
        factor: int = 6,
        guides: int = 4,
    ) -> None:
        super().__init__()
        self.first, self.factor, self.guides = first, factor, guides
        # What a 60 m pixel sees does not change by the shifts of bands.
        self.explained = Explained(factor, align=False)
        self.register_buffer("width", None, persistent=False)
        self._own_widths(width)

    def set_widths(self, metres: Sequence[float]) -> None:
        """Let the second and the last group be seen by sensors of these widths.

        Raises
        ------
        GridError
            As `pixels_of`.
        """
        bands = len(self.width)
        self.first.set_widths(metres[:-bands])
        self._own_widths(metres[-bands:])

    def _own_widths(self, metres: Sequence[float]) -> None:
        widths = pixels_of(metres, self.first.metres, self.factor)
        self.width = widths if self.width is None else widths.to(self.width)

    def forward(
        self, fine: torch.Tensor, middle: torch.Tensor, coarse: torch.Tensor
    ) -> torch.Tensor:
        """Return reflectance ``(B, C, H, W)``, the centre of the same ground.

        One ``(B, C, h, w)`` a group goes in, finite, finest first.
        """
        made = self.first(fine, middle)
        lost = (fine.shape[-1] - made.shape[-1]) // 2
        made = without(made, -lost % self.factor)[:, : self.guides]
        guide = torch.cat((centre(fine, made), made), 1)
        lost = (fine.shape[-1] - guide.shape[-1]) // 2
        told: Known = self.explained(
            guide, without(coarse, lost // self.factor), self.width
        )
        return told.made
