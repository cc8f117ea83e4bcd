"""Layers that the networks share.

Inside a tile nothing is padded: the tile carries its halo, so each convolution gives
only the pixels whose whole neighbourhood it saw, and a skip connection drops the same
border. ``padding="same"`` pads as the published networks do, for training and parity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.models.networks.resample import Upsample

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SLOPE",
    "Centred",
    "Conv",
    "Inputs",
    "Joint",
    "Padding",
    "centre",
    "lower",
    "without",
]

SLOPE = 0.2
"""Of leaky units, below zero."""

Padding: TypeAlias = Literal["valid", "same"]
"""At the edge, a convolution keeps what it knows, or makes up what it misses."""

Inputs: TypeAlias = "Sequence[tuple[int, int]]"
"""Bands of each group, and how many times finer the group becomes; finest first."""


class Conv(nn.Conv2d):
    """A convolution with the same bits for any number of threads on a CPU.

    `torch.nn.functional.conv2d` leaves oneDNN at one thread where the kernel is 1 x 1
    or the image small (64 channels of 9 x 9), and its result changes by 1e-6.

    Parameters
    ----------
    bands, features, kernel
        Channels in and out; side of the kernel, odd.
    padding
        ``"valid"`` shrinks the image by ``kernel // 2`` on each side.
    edge
        What ``"same"`` pads with.
    groups
        Channels are convolved in this many separate groups.
    end
        Bands enter or leave by it, though it has many channels: `lower` lets it be.
    """

    def __init__(
        self,
        bands: int,
        features: int,
        kernel: int = 3,
        *,
        padding: Padding = "valid",
        edge: Literal["zeros", "reflect"] = "zeros",
        groups: int = 1,
        end: bool = False,
    ) -> None:
        pad = kernel // 2 if padding == "same" else 0
        super().__init__(
            bands, features, kernel, padding=pad, padding_mode=edge, groups=groups
        )
        self.pad, self.end = pad, end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, features, H, W)`` of ``(B, bands, h, w)``, any unit.

        In the type of the weights, which `lower` may have changed.
        """
        x = x.to(self.weight.dtype)
        if (
            self.training
            or x.device.type != "cpu"
            or x.dtype == torch.float64
            or not torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        ):
            return super().forward(x)
        pad = self.pad
        if pad and self.padding_mode == "reflect":
            x, pad = F.pad(x, (pad,) * 4, mode="reflect"), 0
        return torch.mkldnn_convolution(
            x, self.weight, self.bias, (pad, pad), (1, 1), (1, 1), self.groups
        )


FEATURES = 16
"""Channels from which on a convolution counts as one between features, not bands."""


@runtime_checkable
class Centred(Protocol):
    """A network that can count its features from those of a flat scene."""

    def centre_on(self, flat: Sequence[float]) -> None:
        """Do so from now on, of one value a band; no result changes but by rounding."""


def lower(network: object, flat: Sequence[float] = ()) -> int:
    """Let the convolutions between features compute in bfloat16; return how many do.

    Those that bands enter or leave by stay float32, and so does what is summed up along
    the trunk: in bf16 two reflectances of 0.1 that differ by 0.0004 are one. CARN
    alone, whose sums took a tenth of its time, sums up in bf16 too.

    What is near 0 is rounded least: a network that can (`Centred`) counts its features
    from those of a scene that is `flat`, one usual value a band.
    """
    if not isinstance(network, nn.Module):
        return 0
    if flat and isinstance(network, Centred):
        network.centre_on(flat)
    inner = [
        m
        for m in network.modules()
        if isinstance(m, Conv)
        and min(m.in_channels, m.out_channels) >= FEATURES
        and not m.end
    ]
    for conv in inner:
        conv.to(torch.bfloat16)
    return len(inner)


def centre(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the middle of `x` that is as high and wide as `like`.

    >>> centre(torch.arange(5.0).expand(1, 1, 5, 5), torch.zeros(1, 1, 3, 1))[0, 0, 0]
    tensor([2.])
    """
    rows, cols = like.shape[-2:]
    top, left = (x.shape[-2] - rows) // 2, (x.shape[-1] - cols) // 2
    assert x.shape[-2:] == (rows + 2 * top, cols + 2 * left), (x.shape, like.shape)
    return x[..., top : top + rows, left : left + cols]


def without(x: torch.Tensor, border: int) -> torch.Tensor:
    """Return `x` without so many pixels on each side.

    >>> without(torch.arange(4.0).expand(1, 1, 4, 4), 1)[0, 0, 0]
    tensor([1., 2.])
    """
    rows, cols = x.shape[-2:]
    return x[..., border : rows - border, border : cols - border]


class Joint(nn.Module):
    """Every band group on the pixels of the finest, as one image.

    Parameters
    ----------
    inputs
        Bands and upsampling factor of each group.
    kernel
        How coarse groups are interpolated.
    padding
        ``"valid"`` keeps the ground on which no group was extrapolated, ``"same"`` all,
        clamped at the edge.
    """

    def __init__(
        self, inputs: Inputs, kernel: Literal["bilinear", "bicubic"], padding: Padding
    ) -> None:
        super().__init__()
        self.ups = nn.ModuleList(Upsample(f, kernel) for _, f in inputs if f > 1)
        self.fine = len(inputs) - len(self.ups)
        self.padding = padding

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """Return ``(B, sum of C, H, W)`` of one ``(B, C, h, w)`` a group, same unit."""
        finer = list(images[: self.fine])
        for up, image in zip(self.ups, images[self.fine :], strict=True):
            assert isinstance(up, Upsample)
            # Only the outer half of an edge pixel leans on what lies beyond it. Without
            # the inner half (`Upsample` alone) DSen2 at 60 m needs a cell more margin.
            n = (up.reach - 1) * up.factor + up.factor // 2
            finer.append(without(up.whole(image), n if self.padding == "valid" else 0))
        least = min(finer, key=lambda image: image.shape[-1])
        return torch.cat([centre(image, least) for image in finer], dim=1)
