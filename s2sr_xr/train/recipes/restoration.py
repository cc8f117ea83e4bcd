"""The recipe `restoration`: ten bands to 5 m, learnt from Sentinel-2 alone.

The shipped network was trained with it. A scene with a known finer reference, such as a
simulated one, can be added, but none is needed.

References
----------
Michel and Kalinicheva (2024), Building an operational shallow Sentinel-2 single image
super-resolution network for EvoLand prototypes, SUREDOS24: Wald's noise.
Lanaras et al. (2018), ISPRS Journal 146: the blur.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.simulate.degrade import add_noise
from s2sr_xr.train.data.evoland_batches import (
    TEN,
    WALD_NOISE,
    Batch,
    between,
    check_range,
)
from s2sr_xr.train.five_metres import (
    TWENTY,
    Recipe,
    check_bands,
    data,
    fit_scenes,
    network,
    sampler,
    settings_of,
)
from s2sr_xr.train.losses import over_bicubic, spread_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from s2sr_xr.train.plan import Step
    from s2sr_xr.train.training import Data, Files, Training

    Network: TypeAlias = Callable[..., torch.Tensor]

__all__ = ["Restoration", "data", "network", "settings", "steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What the shipped network learns: real pixels, one scale and two scales below.

    No finer sensor and nothing adversarial. *One scale below*: everything by 2, as in
    `reduce_scale`; the 10 m bands at 10 m are the target, and of the others what they
    become at 20 m. *Two scales below*: everything by 2 and by 2 again, and all ten
    bands are known at 20 m. So each scale is to the next as the next to the one after.
    A batch with a finer image, such as a simulated scene's truth, is taken as it is.
    """

    loud: tuple[float, float] = (0.0, 1.0)
    """Range of the factor on Wald's noise: what averaging took away, given back."""

    edge: int = 4
    """Output pixels along the border that do not count."""

    below: float = 1.0
    """Weight of two scales below."""

    truth: float = 0.5
    """Weight of a finer image."""

    relative: bool = False
    """Errors are RMSE over that of bicubic, patch by patch and band by band
    (`over_bicubic`), so that dark and flat ones count too; not mean absolute errors in
    spreads of a training set."""

    def __post_init__(self) -> None:
        check_range("loud", self.loud, 0, math.inf)

    def __call__(self, network: Network, batch: Sequence[Batch]) -> torch.Tensor:
        """Return the loss of real images and, where there is one, of a finer one."""
        real, *finer = batch
        total = self.once(network, real) + self.below * self.twice(network, real)
        for *seen, fine in finer:
            made = network(*seen)
            total = total + self.truth * self.error(made, seen, fine, self.edge)
        return total

    def once(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return the loss one scale below."""
        ten, twenty = batch
        seen = self.noisy(reduce_scale(ten, 2), reduce_scale(twenty, 2))
        made = network(*seen)
        fine = self.error(made[:, :TEN], seen[:1], ten, self.edge)
        others = reduce_scale(made[:, TEN:], 2)
        return fine + self.error(others, seen[1:], twenty, self.edge // 2, TEN)

    def twice(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return the loss two scales below."""
        ten, twenty = batch
        half = reduce_scale(ten, 2)
        quarter = reduce_scale(reduce_scale(twenty, 2), 2)
        seen = self.noisy(reduce_scale(half, 2), quarter)
        target = torch.cat((half, twenty), 1)
        return self.error(network(*seen), seen, target, self.edge)

    def error(
        self,
        made: torch.Tensor,
        seen: Batch,
        target: torch.Tensor,
        edge: int,
        first: int = 0,
    ) -> torch.Tensor:
        """Return the error of some of the ten bands, from `first` on.

        `seen` are these bands as the network was given them, group by group.
        """
        if not self.relative:
            bands = range(first, first + made.shape[1])
            return spread_loss(made, target, bands, edge)
        inner = slice(edge, -edge or None)
        kinds = [image.shape[1] for image in seen]
        parts = (torch.split(x, kinds, 1) for x in (made[..., inner, inner], target))
        found = [
            over_bicubic(m, image, t) for m, t, image in zip(*parts, seen, strict=True)
        ]
        return torch.cat(found, 1).mean()

    def noisy(self, *images: torch.Tensor) -> list[torch.Tensor]:
        """Return the images with a little noise of one loudness."""
        generator = torch.default_generator
        noise = between(self.loud, generator)
        levels = [noise * n for n in WALD_NOISE]
        stds = levels[:TEN], levels[TEN:]
        return [
            add_noise(image, std, generator)
            for image, std in zip(images, stds, strict=True)
        ]


def settings(job: Training) -> Recipe:
    """Return the settings of a job."""
    return settings_of(job, Restoration, Recipe)


def steps(
    settings: Recipe, network: nn.Module, data: Data, files: Files
) -> Iterator[Step]:
    """Train the network, and yield each step."""
    scenes = data.source
    check_bands(settings, scenes.finer, (TWENTY,))
    samplers = [sampler(settings, scenes.inputs)]
    if scenes.finer:
        sizes = {"side": settings.finer_side, "batch": settings.finer_batch}
        samplers.append(sampler(settings, scenes.finer, **sizes))

    def draw(step: int) -> list[Batch]:
        return [one(step) for one in samplers]

    return fit_scenes(settings, network, scenes, draw, files)
