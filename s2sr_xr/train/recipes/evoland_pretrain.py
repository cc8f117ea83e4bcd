"""The recipe `evoland-pretrain`: ten bands to 5 m, from a finer image of all of them.

Sentinel-2 is simulated from the finer image, in each step with another blur and noise.

References
----------
Michel and Kalinicheva (2024), Building an operational shallow Sentinel-2 single image
super-resolution network for EvoLand prototypes, SUREDOS24.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from s2sr_xr.train.data.evoland_batches import (
    LOUD,
    MTF,
    TEN,
    Batch,
    Example,
    align_range,
    check_range,
    mosaic,
    simulated_batch,
    wald_batch,
)
from s2sr_xr.train.five_metres import (
    TWENTY,
    Recipe,
    check_bands,
    check_finer,
    data,
    fit_scenes,
    network,
    sampler,
    settings_of,
)
from s2sr_xr.train.losses import band_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from s2sr_xr.train.plan import Step
    from s2sr_xr.train.training import Data, Files, Training

    Network: TypeAlias = Callable[..., torch.Tensor]

__all__ = ["Pretraining", "data", "network", "settings", "steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """``evoland-pretrain``: simulated batches for what is known finer, Wald's for B11.

    Published: 20 epochs of batches of 16, Adam at 2e-4 with cosine restarts every 750
    steps, the period doubling; `fit` falls once instead.
    """

    mtf: tuple[float, float] = MTF
    """Range of the MTF at the Nyquist frequency."""

    loud: tuple[float, float] = LOUD
    """Range of the factor on the noise."""

    align: bool = True
    """Whether the finer image first takes the range of the real bands."""

    edge: int = 41
    """Output pixels along the border that do not count: how far the network looks."""

    def __post_init__(self) -> None:
        check_range("mtf", self.mtf, 1e-3, 1)
        check_range("loud", self.loud, 0, math.inf)

    def __call__(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch with a finer image, a scalar."""
        return self.full(network, batch)[0] + self.wald(network, batch)

    def full(
        self, network: Network, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, Example]:
        """Return the loss on the finer image, what was made, and the example."""
        ten, twenty, fine = batch
        fine = align_range(fine, batch) if self.align else fine
        example = simulated_batch(
            (ten, twenty, fine),
            torch.default_generator,
            mtf=self.mtf,
            loud=self.loud,
        )
        made = network(*example.images)
        tens, others = (
            band_loss(made, example, self.edge, of)
            for of in (slice(0, TEN), slice(TEN, None))
        )
        return tens + others, made, example

    def wald(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return the loss on B11 and B12, which no finer sensor shows."""
        example = wald_batch(
            batch, torch.default_generator, mtf=self.mtf, loud=self.loud
        )
        # A patch of a quarter of the side, and its mirror images.
        made = network(*map(mosaic, example.images))
        rows, cols = example.target.shape[-2:]
        edge = min(self.edge, min(rows, cols) // 4)
        return band_loss(made[..., :rows, :cols], example, edge, slice(8, 10))


def settings(job: Training) -> Recipe:
    """Return the settings of a job."""
    return settings_of(job, Pretraining, Recipe)


def steps(
    settings: Recipe, network: nn.Module, data: Data, files: Files
) -> Iterator[Step]:
    """Train the network, and yield each step."""
    scenes = data.source
    check_finer(settings, scenes)
    check_bands(settings, scenes.finer, (TWENTY[:4], TWENTY))
    draw = sampler(settings, scenes.finer)
    return fit_scenes(settings, network, scenes, draw, files)
