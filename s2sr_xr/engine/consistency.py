"""Fine pixels whose mean is the pixel that the sensor recorded.

A network restores detail and may drift from what was measured. The difference, native
pixel by native pixel, is spread over the fine ones by a piecewise quadratic that keeps
its means and has no step where two native pixels meet.

References
----------
Mean-preserving quadratic splines: each piece has the mean of its pixel, and at both
ends the mean of the two pixels that meet there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from s2sr_xr.core.filters import block_mean
from s2sr_xr.core.tiling import CORRECTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from s2sr_xr.models.spec import ModelSpec

__all__ = ["Consistent", "spread_means"]


def spread_means(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Return fine pixels whose `factor` x `factor` means are `x`, without its rim.

    Parameters
    ----------
    x
        ``(..., H, W)``, any unit, H and W at least 3.
    factor
        Fine pixels along the side of a coarse one.

    Returns
    -------
    torch.Tensor
        ``(..., (H - 2) * factor, (W - 2) * factor)``: a quadratic in each coarse pixel
        along each axis, continuous across their edges.

    >>> made = spread_means(torch.eye(4), 4)
    >>> (block_mean(made, 4) - torch.eye(4)[1:-1, 1:-1]).abs().max() < 1e-6
    tensor(True)
    """
    for dim in (-2, -1):
        x = _along(x, factor, dim)
    return x


def _along(x: torch.Tensor, factor: int, dim: int) -> torch.Tensor:
    n = x.shape[dim] - 2
    before, own, after = (x.narrow(dim, i, n) for i in range(3))
    phases = []
    for a, b, c in _weights(factor):
        phases.append(own * b + before * a + after * c)
    return torch.stack(phases, dim).flatten(dim - 1, dim)


def _weights(factor: int) -> list[tuple[float, float, float]]:
    """Return, for each fine pixel, the shares of the pixel before, its own, and after.

    In a pixel the quadratic is ``r + b t + c (t**2 - v)`` for t in -1/2..1/2, with v
    the mean of ``t**2`` over the fine pixels, so that its mean is r; b and c give both
    ends the mean of the two pixels that meet there.
    """
    v = (factor**2 - 1) / (12 * factor**2)
    found = []
    for k in range(factor):
        t = (k + 0.5) / factor - 0.5
        bend = (t * t - v) / (1 - 4 * v)
        found.append((bend - t / 2, 1 - 2 * bend, bend + t / 2))
    return found


class Consistent:
    """A network whose result, averaged back to its input's pixels, is its input.

    Takes images with a margin of `CORRECTION` cells more than the network needs.

    Parameters
    ----------
    network
        As `predict` takes it, of an image's whole ground or a centre of it.
    spec
        Its facts, without the added margin.
    """

    def __init__(self, network: Callable[..., torch.Tensor], spec: ModelSpec) -> None:
        self.network, self.spec = network, spec

    def __call__(self, *images: torch.Tensor) -> torch.Tensor:
        """Return ``(B, C, H, W)`` of the images' ground without the whole margin."""
        spec, k = self.spec, self.spec.output.per_cell
        first = spec.inputs[0]
        rows, cols = (
            n // first.per_cell - 2 * spec.margin for n in images[0].shape[-2:]
        )
        made = _middle(self.network(*images), rows * k, cols * k)
        names = spec.output.names
        kept = (rows - 2 * CORRECTION) * k, (cols - 2 * CORRECTION) * k
        out = _middle(made, *kept).clone()
        for group, image in zip(spec.inputs, images, strict=True):
            here = [b for b in group.names if b in names]
            if not here:
                continue
            at, of = ([n.index(b) for b in here] for n in (names, group.names))
            own = _middle(image, rows * group.per_cell, cols * group.per_cell)
            factor = k // group.per_cell
            residual = own[:, of] - block_mean(made[:, at], factor)
            out[:, at] += _middle(spread_means(residual, factor), *kept)
        return out


def _middle(image: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    top, left = (image.shape[-2] - rows) // 2, (image.shape[-1] - cols) // 2
    return image[..., top : top + rows, left : left + cols]
