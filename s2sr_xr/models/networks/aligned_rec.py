"""Our small REC: bands are aligned first, then what each adds to the others is learnt.

REC has to find the shifts between bands by itself, for which a small network, trained
briefly, is too weak. Here a frozen registration finds them. Each band is fetched where
the flow says, at the places of the fine pixels, which keeps what aliases in it; how far
it was moved within a pixel says with which sign it aliases, and scales the features.

References
----------
Nguyen et al. (2023), L1BSR, CVPR workshops, section 3.1: the task, and the residual
network between one convolution and a pixel shuffle.
Tsai, Huang (1984), Multiframe image restoration and registration: alias of shifted
images, separated by the phase of the shift.
Perez et al. (2018), FiLM: visual reasoning with a general conditioning layer, AAAI.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.models.networks.layers import Conv
from s2sr_xr.models.networks.lucas_kanade import LucasKanade
from s2sr_xr.models.networks.rec import SCALE
from s2sr_xr.models.networks.registration import band_flows, warp

__all__ = ["AlignedREC"]

WAVES = ((1, 0), (0, 1), (1, 1), (1, -1))
"""Whole waves a pixel along x and y: what folds back to the low frequencies."""


class Block(nn.Module):
    """Two convolutions, added to their input; features between scaled by the phase."""

    def __init__(self, features: int, phases: int) -> None:
        super().__init__()
        self.conv1 = Conv(features, features, padding="same")
        self.conv2 = Conv(features, features, padding="same")
        self.scale = Conv(phases, features, 1) if phases else None
        if self.scale is not None:
            nn.init.zeros_(self.scale.weight)
            nn.init.zeros_(self.scale.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, h, w)`` of the same, and of ``(B, phases, h, w)``."""
        y = F.relu(self.conv1(x)).to(x.dtype)
        if self.scale is not None:
            y = y * (1 + self.scale(phase).to(x.dtype))
        added: torch.Tensor = self.conv2(y).to(x.dtype)
        return added.add_(x)


class AlignedREC(nn.Module):
    """Bands of one detector, aligned to green, with pixels of half the side.

    What it looks at is the flow's affair, so that a tile with its halo is part of the
    definition, as for REC.

    Parameters
    ----------
    bands, reference
        Channels in and out; the one that the others are aligned to.
    features, blocks
        Channels inside; residual blocks.
    phase
        Where a pixel lies among its two fine pixels, as `l1b_simulation.Sensor` has
        it: 0.5 is the middle.
    """

    def __init__(
        self,
        *,
        bands: int = 4,
        reference: int = 1,
        features: int = 48,
        blocks: int = 12,
        phase: float = 0.5,
    ) -> None:
        super().__init__()
        self.reference, self.phase = reference, phase
        self.registration = LucasKanade().requires_grad_(requires_grad=False)
        phases = 2 * len(WAVES) * (bands - 1)
        self.head = Conv(4 * bands, features, padding="same", end=True)
        self.trunk = nn.ModuleList(Block(features, phases) for _ in range(blocks))
        self.tail = Conv(features, 4 * bands, padding="same", end=True)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(
        self, counts: torch.Tensor, flow: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return counts ``(B, bands, 2 h, 2 w)`` of raw counts ``(B, bands, h, w)``.

        `flow`, ``(B, bands, 2, h, w)``, is where each pixel of green lies in each band:
        x, then y, in pixels; by default, what the registration finds.
        """
        if flow is None:
            flow = self.find(counts)
        seen = self.fetched(counts / SCALE, flow)
        phase = self.phases(flow)
        x = self.head(seen).to(seen.dtype)
        for block in self.trunk:
            x = block(x, phase)
        made = seen + self.tail(x).to(seen.dtype)
        return F.pixel_shuffle(made, 2).mul_(SCALE)

    @torch.no_grad()
    def find(self, counts: torch.Tensor) -> torch.Tensor:
        """Return the flow of each band of ``(B, bands, h, w)``, 0 for the reference."""
        kind = counts.device.type
        mixed = torch.amp.is_autocast_available(kind)
        # What it solves by itself needs float32.
        with torch.autocast(kind, enabled=False) if mixed else nullcontext():
            return band_flows(
                self.registration, counts.float(), reference=self.reference
            )

    def fetched(self, image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """Return ``(B, 4 bands, h, w)``: of each band the four fine pixels, aligned."""
        made = []
        for band, where in zip(image.unbind(1), flow.unbind(1), strict=True):
            for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
                step = where.new_tensor([x - self.phase, y - self.phase]) / 2
                made.append(warp(band[:, None], where + step[:, None, None]))
        return torch.cat(made, 1)

    def phases(self, flow: torch.Tensor) -> torch.Tensor:
        """Return the waves ``(B, 8 (bands - 1), h, w)`` of how far bands were moved."""
        moved = [f for n, f in enumerate(flow.unbind(1)) if n != self.reference]
        waves = [
            turn(2 * math.pi * (across * f[:, :1] + down * f[:, 1:]))
            for f in moved
            for across, down in WAVES
            for turn in (torch.cos, torch.sin)
        ]
        return torch.cat(waves, 1) if waves else flow[:, 0, :0]
