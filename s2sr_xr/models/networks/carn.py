"""CARN as EvoLand uses it: ten bands at 5 m.

Like the original, except that cascades add where it concatenates, activations are
leaky, and each band is standardised instead of shifted by a mean.

References
----------
Ahn et al. (2018), Fast, accurate, and lightweight super-resolution with cascading
residual network, ECCV, section 3.1 and 3.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.models.networks.layers import SLOPE, Conv, Inputs, Joint, Padding, centre
from s2sr_xr.models.networks.regression import Guided
from s2sr_xr.models.networks.resample import Upsample
from s2sr_xr.models.networks.standard import Standard

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CARN"]


class EResBlock(nn.Module):
    """Two grouped convolutions and one 1 x 1, added to their input."""

    def __init__(self, features: int, groups: int, padding: Padding) -> None:
        super().__init__()
        self.conv1 = Conv(features, features, padding=padding, groups=groups)
        self.conv2 = Conv(features, features, padding=padding, groups=groups)
        self.conv3 = Conv(features, features, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, h - 4, w - 4)``, or all of ``(B, features, h, w)``."""
        # Added up in one type: to add float32 to bf16 in place is 40 times slower.
        x = x.to(self.conv1.weight.dtype)
        y = F.leaky_relu_(self.conv1(x), SLOPE)
        y = self.conv3(F.leaky_relu_(self.conv2(y), SLOPE))
        return F.leaky_relu_(y.add_(centre(x, y)), SLOPE)


class Cascade(nn.Module):
    """Stages in a row; each starts from a 1 x 1 mix of the sum of all before it.

    Parameters
    ----------
    stages
        One for each step, or one alone that is used `steps` times.
    features
        Channels throughout.
    steps
        How many stages run.
    """

    def __init__(self, stages: Sequence[nn.Module], features: int, steps: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.mixes = nn.ModuleList(Conv(features, features, 1) for _ in range(steps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, H, W)`` of ``(B, features, h, w)``."""
        total = x
        for i, mix in enumerate(self.mixes):
            y = self.stages[i % len(self.stages)](x)
            # Added up in one type: float32 and bf16 together are several times slower.
            before = centre(total, y).to(y.dtype)
            # In the memory of `y`, unless its slope is asked for.
            total = y + before if y.requires_grad else y.add_(before)
            x = mix(total)
        return x


class CARN(nn.Module):
    """All bands of all groups, twice as fine as the finest.

    The published name ``carn_3x3x64g4sw`` reads: 3 `blocks`, 3 `stages`, 64 channels
    after the shuffle (256 `features`), 4 `groups`, shared weights.

    Parameters
    ----------
    inputs
        Bands and upsampling factor of each group, finest first.
    features, blocks, stages, groups
        Channels; cascading blocks; residual blocks in each; groups of their
        convolutions.
    shared
        One residual block is used for all stages of a cascading block.
    mean, std
        Of each band, in reflectance.
    skip
        What is added to what the last convolution gives: nothing, as published, or
        bicubic interpolation of the input, so that with a last convolution of zeros the
        network begins as interpolation, and has only the rest to learn. With
        ``"regression"`` the coarse bands come in by local regression on the fine ones.
    padding
        ``"same"`` pads the first convolution by reflection, the others with zeros.
    """

    def __init__(
        self,
        inputs: Inputs = ((4, 1), (6, 2)),
        *,
        features: int = 256,
        blocks: int = 3,
        stages: int = 3,
        groups: int = 4,
        shared: bool = True,
        mean: Sequence[float],
        std: Sequence[float],
        skip: Literal["nothing", "bicubic", "regression"] = "nothing",
        padding: Padding = "valid",
    ) -> None:
        super().__init__()
        bands = sum(n for n, _ in inputs)

        def cascade() -> Cascade:
            own = range(1 if shared else stages)
            inner = [EResBlock(features, groups, padding) for _ in own]
            return Cascade(inner, features, stages)

        guided = skip == "regression"
        self.joint = (
            Guided(inputs, padding) if guided else Joint(inputs, "bicubic", padding)
        )
        self.standard = Standard(mean, std)
        self.head = Conv(bands, features, padding=padding, edge="reflect")
        self.trunk = Cascade([cascade() for _ in range(blocks)], features, blocks)
        self.widen = Conv(features, features, padding=padding)
        self.tail = Conv(features // 4, bands, padding=padding)
        self.skip = None if skip == "nothing" else Upsample(2, "bicubic")

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """Return reflectance ``(B, C of all groups, 2 H, 2 W)``.

        One reflectance stack ``(B, C, h, w)`` a group goes in; ``"valid"`` gives the
        centre of the same ground.
        """
        x = self.standard(self.joint(*images))
        y = F.pixel_shuffle(self.widen(self.trunk(self.head(x))), 2)
        y = self.tail(y)
        if self.skip is not None:
            # Edge pixels lie in the padding of a patch, never in a tile.
            y = y + centre(self.skip.whole(x), y)
        return self.standard.undo(y)
