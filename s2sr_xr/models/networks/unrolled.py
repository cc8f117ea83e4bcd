"""Coarse bands at the pixels of fine ones: regression, then what a network adds to it.

The network begins from `Explained`. Each of its stages sees the bands as made so far,
what the sensor said beyond the fine bands, and how well these explain each; what it
adds counts as much as is left unexplained, so that what is explained exactly stays.
What the sensor would see of that is taken back, as far as the coarse pixels are more
than noise: detail is added that the sensor cannot see.

References
----------
Adler and Öktem (2018), Learned primal-dual reconstruction, IEEE TMI 37(6): stages of an
iterative scheme whose steps are learnt and whose operator is known.
Schwab, Antholzer and Haltmeier (2019), Deep null space learning for inverse problems,
Inverse Problems 35(2): a network adds only what the operator does not see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.core.filters import block_mean, mirrored
from s2sr_xr.models.networks.explained import NOISE, Explained, Known
from s2sr_xr.models.networks.layers import Conv, centre, without
from s2sr_xr.models.networks.sensor import NEAR, SEEN, observe, pixels_of, restore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2sr_xr.models.networks.layers import Inputs, Padding

__all__ = ["Stages", "Unrolled"]

SCALE = 5.0
"""Reflectance times this is what the network sees of the bands."""

DETAIL = 30.0
"""Times this of what they lack."""

LEAST = 1e-4
"""Misfit, in reflectance, below which nothing more is told from noise."""

STEP = 0.1
"""Share of its convolutions that a residual block adds."""

HOLD = 2.0
"""How much an untrained network holds on to coarse pixels: 0.88 of 1, as a logit."""


class Block(nn.Module):
    """Two convolutions, a tenth of which is added to what they see."""

    def __init__(self, features: int, padding: Padding) -> None:
        super().__init__()
        self.conv1 = Conv(features, features, padding=padding)
        self.conv2 = Conv(features, features, padding=padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, h - 4, w - 4)``, or all of ``(B, features, h, w)``."""
        # Under autocast the convolutions run in bf16; what is summed up stays float32.
        y = self.conv2(F.relu_(self.conv1(x))).to(x.dtype).mul_(STEP)
        return y.add_(centre(x, y))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """What one stage adds, in units of the misfit, and how far it is taken back."""

    def __init__(
        self, bands: int, features: int, blocks: int, made: int, padding: Padding
    ) -> None:
        super().__init__()
        self.head = Conv(bands, features, padding=padding, end=True)
        self.blocks = nn.Sequential(*(Block(features, padding) for _ in range(blocks)))
        self.tail = Conv(features, 2 * made, padding=padding, end=True)
        for layer in self.modules():
            if isinstance(layer, Conv):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.tail.weight)

    def forward(
        self, x: torch.Tensor, before: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(B, 2 C, ...)``, what to add and to hold; features to go on from."""
        y = self.head(x).to(x.dtype)
        if before is not None:
            y = y + centre(before, y)
        y = self.blocks(F.relu(y))
        return self.tail(y).to(x.dtype), y


class Stages(nn.Module):
    """The learnt part: fine and coarse bands, and what is `Known` of them.

    Parameters
    ----------
    inputs
        Bands and upsampling factor of the fine and the coarse group.
    features
        Channels of the trunk.
    blocks
        Residual blocks of each stage.
    padding
        ``"valid"`` in use; ``"same"`` pads with zeros, and mirrors for the sensor.
    """

    share: torch.Tensor

    def __init__(
        self, inputs: Inputs, features: int, blocks: Sequence[int], padding: Padding
    ) -> None:
        super().__init__()
        (seen, _), (made, self.factor) = inputs
        self.padding = padding
        self.stages = nn.ModuleList(
            Stage(seen + 4 * made, features, many, made, padding) for many in blocks
        )
        # Of what the stages add, band by band. Chosen after training: what a network
        # is sure of on the ground that it knows, is less sure elsewhere.
        self.register_buffer("share", torch.ones(made))

    def forward(
        self,
        fine: torch.Tensor,
        told: Known,
        width: torch.Tensor,
        shown: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return ``(B, C, H, W)``, reflectance.

        `width` is ``(B, C)``, what the sensor sees; `shown` what the convolutions are
        shown of it, where that is something else.
        """
        shown = width if shown is None else shown
        made, lacks, features = told.made, told.rest, None
        for stage in self.stages:
            misfit = centre(told.misfit, made).clamp(min=LEAST)
            power = misfit * misfit  # of noise alone nothing is to be made
            scale = misfit * power / (power + NOISE**2)
            x = torch.cat(
                (
                    centre(fine, made) * SCALE,
                    made * SCALE,
                    centre(lacks, made) * DETAIL,
                    (misfit / LEAST).log() / 3 - 1,
                    shown[..., None, None].expand_as(made) - 1,
                ),
                1,
            )
            found, features = stage(x, features)
            more, hold = found.chunk(2, 1)
            more = more * centre(scale, more)
            more, lacks = self.unseen(more, hold, told, width)
            made = centre(made, more) + more
        first = centre(told.made, made)
        return first + (made - first) * self.share[:, None, None]

    def unseen(
        self, more: torch.Tensor, hold: torch.Tensor, told: Known, width: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is added less what the sensor would see of it, and that.

        As far as the coarse pixels are signal, and as the network holds on to them. In
        a valid network whole coarse pixels are left, and what is around is lost.
        """
        k, whole = self.factor, more
        if self.padding == "same":
            whole, hold = (_mirrored(x, SEEN * k) for x in (more, hold))
        else:
            odd = (whole.shape[-1] - told.coarse.shape[-1] * k) // 2 % k
            whole, hold = without(whole, odd), without(hold, odd)
        seen = observe(whole, width, k)
        held = block_mean(without(hold, SEEN * k), k)
        seen = seen * centre(told.gain, seen) * torch.sigmoid(held + HOLD)
        if self.padding == "same":
            seen = _mirrored(seen, NEAR)
        back = restore(seen, width, k)
        return centre(more, back) - back, back


class Unrolled(nn.Module):
    """Bands of the last group on the pixels of the first, by stages that are learnt.

    Parameters
    ----------
    inputs
        Bands and upsampling factor of each group: ``((4, 1), (6, 2))``.
    width
        Metres: what each band's sensor sees, beside the fine bands (`pixels_of`); until
        `set_widths` says otherwise.
    metres
        Side of a fine pixel.
    groups
        As in `Explained`.
    features, blocks
        As in `Stages`.
    learnt
        Metres, from and to, of each band's sensor in training. The convolutions are
        shown the nearest of these; the sensor is seen through as it is.
    """

    width: torch.Tensor

    def __init__(
        self,
        inputs: Inputs,
        *,
        width: Sequence[float],
        metres: float = 10.0,
        groups: Sequence[int] | None = None,
        features: int = 64,
        blocks: Sequence[int] = (3, 3),
        learnt: Sequence[tuple[float, float]] = (),
    ) -> None:
        super().__init__()
        self.learnt = tuple(learnt)
        self.factor, self.metres = inputs[-1][1], metres
        self.explained = Explained(self.factor, groups=groups)
        self.stages = Stages(inputs, features, blocks, "valid") if blocks else None
        self.register_buffer("width", None, persistent=False)
        self.set_widths(width)

    def set_widths(self, metres: Sequence[float]) -> None:
        """Let the network see through a sensor of these widths, one a coarse band.

        Raises
        ------
        GridError
            As `pixels_of`.
        """
        widths = pixels_of(metres, self.metres, self.factor)
        self.width = widths if self.width is None else widths.to(self.width)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """Return reflectance ``(B, C, H, W)``, the centre of the same ground.

        ``(B, P, h * factor, w * factor)`` and ``(B, C, h, w)`` go in, finite.
        """
        width = self.width.expand(coarse.shape[:2])
        told: Known = self.explained(fine, coarse, width)
        made: torch.Tensor = told.made
        if self.stages is not None:
            made = self.stages(fine, told, width, self._shown(width))
        return made

    def _shown(self, width: torch.Tensor) -> torch.Tensor:
        """Return the nearest widths, in fine pixels, that were learnt from."""
        if not self.learnt:
            return width
        least, most = (
            width.new_tensor(x) / self.metres for x in zip(*self.learnt, strict=True)
        )
        return torch.maximum(torch.minimum(width, most), least)


def _mirrored(x: torch.Tensor, by: int) -> torch.Tensor:
    """Return `x` with so many mirrored pixels on each side, the edge included."""
    return mirrored(mirrored(x, by, -2), by, -1)
