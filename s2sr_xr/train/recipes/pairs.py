"""The recipe `pairs`: ten bands to 5 m, from a finer sensor that saw the same ground.

Two sensors never agree to a fraction of a pixel: the finer image is laid on what the
network makes, patch by patch (`s2sr_xr.train.alignment`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import torch

from s2sr_xr.errors import GridError
from s2sr_xr.models.published import EVOLAND
from s2sr_xr.train.alignment import LOBES, aligned, inner
from s2sr_xr.train.five_metres import (
    Recipe,
    check_finer,
    data,
    fit_scenes,
    network,
    sampler,
    settings_of,
)
from s2sr_xr.train.losses import SPREAD
from s2sr_xr.train.recipes.restoration import Restoration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from s2sr_xr.train.data.evoland_batches import Batch
    from s2sr_xr.train.plan import Step
    from s2sr_xr.train.training import Data, Files, Training

    Network: TypeAlias = Callable[..., torch.Tensor]

__all__ = ["Supervised", "data", "network", "settings", "steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervised:
    """``pairs``: what a finer sensor saw, laid on what the network makes.

    Batches are of the 10 m bands, the 20 m bands and some bands of the finer sensor. Of
    the bands that it lacks the network learns as in `Restoration`, which also holds it
    to Sentinel-2's own radiometry.
    """

    bands: tuple[int, ...] = (0, 1, 2, 3)
    """Which of the ten the finer image has."""

    align: bool = True
    """Whether the finer image is laid on what is made; if not, it is taken as is."""

    reach: float = 3.0
    """Largest shift, in pixels of 5 m."""

    match: float = 0.5
    """Correlation that a patch needs to count: below, clouds or seasons differ."""

    keep: float = 1.0
    """Weight of what `restoration` learns from Sentinel-2 alone."""

    restoration: Restoration = field(default_factory=Restoration)
    """How it does."""

    def __call__(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch with a finer image, a scalar."""
        ten, twenty, _ = batch
        made = network(ten, twenty)[:, list(self.bands)]
        total = self.like(made, batch)
        if self.keep:
            total = total + self.keep * self.restoration(network, [(ten, twenty)])
        return total

    def like(self, made: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean absolute error to the finer image, in spreads of the bands.

        Raises
        ------
        GridError
            The finer image is not of `bands` on the pixels of `made`.
        """
        fine = batch[2]
        if made.shape != fine.shape:
            raise GridError(
                f"The network makes {tuple(made.shape)} of bands {list(self.bands)}, "
                f"the finer image is {tuple(fine.shape)}."
            )
        edge, counts = self.restoration.edge, torch.ones(len(fine)).to(fine)
        if self.align:
            edge = max(edge, int(self.reach) + 1 + LOBES)
            level = self.level(batch)
            found = aligned(fine, made, level, reach=self.reach)
            fine, counts = found.image, (found.match >= self.match).to(fine)
        unit = torch.tensor([SPREAD[b] for b in self.bands]).to(made)[:, None, None]
        error = inner((made - fine) / unit, edge).abs().mean((1, 2, 3))
        return (error * counts).sum() / counts.sum().clamp(min=1)

    def level(self, batch: Batch) -> torch.Tensor:
        """Return Sentinel-2's own pixels of the bands, repeated."""
        groups = zip(batch[:2], (2, 4), strict=True)
        repeated = [
            x.repeat_interleave(n, -2).repeat_interleave(n, -1) for x, n in groups
        ]
        return torch.cat(repeated, 1)[:, list(self.bands)]


def settings(job: Training) -> Recipe:
    """Return the settings of a job."""
    # The bands are those of the finer image.
    tables = {"restoration": Restoration}
    return settings_of(job, Supervised, Recipe, tables=tables, bands=(0, 1, 2, 3))


def steps(
    settings: Recipe, network: nn.Module, data: Data, files: Files
) -> Iterator[Step]:
    """Train the network, and yield each step."""
    scenes = data.source
    check_finer(settings, scenes)
    assert isinstance(settings.loss, Supervised)
    names = scenes.finer[0].groups[-1].names
    bands = tuple([*EVOLAND].index(b) for b in names)
    settings = replace(settings, loss=replace(settings.loss, bands=bands))
    draw = sampler(settings, scenes.finer)
    return fit_scenes(settings, network, scenes, draw, files)
