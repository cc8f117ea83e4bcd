"""EvoLand's recipes for networks that bring ten bands to 5 m, and ours.

A batch is what a `Sampler` gives: reflectance of the 10 m and the 20 m bands of the
same ground, and for simulation a finer image too. Degradation happens here, on the
batch, so that each step may blur in its own way. A recipe is called with the network
and a batch, and gives the loss; `fit` does the rest::

    sampler = Sampler(sources, side=64, batch=16)
    for step in fit(network, sampler, Pretraining(), Plan(steps=20_000, lr=2e-4)):
        ...

References
----------
Michel and Kalinicheva (2024), Building an operational shallow Sentinel-2 single image
super-resolution network for EvoLand prototypes, SUREDOS24: all but `Restoration`.
Jolicoeur-Martineau (2019), The relativistic discriminator: a key element missing from
standard GAN, ICLR: the average of `relativistic_loss`.
Lanaras et al. (2018), ISPRS Journal 146: the blur of `Restoration`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.errors import GridError
from s2sr_xr.models.published import EVOLAND
from s2sr_xr.simulate.degrade import add_noise, psf_downscale
from s2sr_xr.train.data.evoland_batches import (
    LOUD,
    MTF,
    TEN,
    WALD_NOISE,
    Batch,
    Example,
    align_range,
    between,
    check_range,
    mosaic,
    simulated_batch,
    wald_batch,
)
from s2sr_xr.train.losses import bicubic, over_bicubic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Network: TypeAlias = Callable[..., torch.Tensor]

__all__ = ["Pretraining", "Restoration", "band_loss", "high_pass"]


SPREAD = tuple(std for _, std in EVOLAND.values())
"""Deviation of each band in EvoLand's training set: the unit of a loss."""


# Batches


# Losses


def band_loss(
    made: torch.Tensor, example: Example, edge: int, of: slice = slice(None)
) -> torch.Tensor:
    """Return the mean absolute error, each band in units of its spread.

    Parameters
    ----------
    made
        What the network gives, ten bands.
    example
        What it should have.
    edge
        Output pixels along the border that do not count: the network pads there, and
        never does in use.
    of
        Which channels of the target count.
    """
    bands = list(example.bands)[of]
    return spread_loss(made[:, bands], example.target[:, of], bands, edge)


def spread_loss(
    made: torch.Tensor, target: torch.Tensor, bands: Sequence[int], edge: int
) -> torch.Tensor:
    """Return the mean absolute error of some of the ten bands, in their spreads."""
    if min(made.shape[-2:]) <= 2 * edge:
        raise GridError(
            f"A border of {edge} pixels leaves nothing of {tuple(made.shape[-2:])}; "
            "use larger patches or a smaller edge."
        )
    inner = slice(edge, -edge or None)
    unit = torch.tensor([SPREAD[b] for b in bands]).to(made)[:, None, None]
    error: torch.Tensor = (made - target)[..., inner, inner] / unit
    return error.abs().mean()


def high_pass(x: torch.Tensor, mtf: float = 0.4) -> torch.Tensor:
    """Return what an image has beyond one with pixels twice as wide.

    The difference of `x` and the bicubic interpolation of `psf_downscale` by 2. Flat
    images give 0. `x` has even sides, 8 or more.
    """
    return x - bicubic(psf_downscale(x, 2, mtf), 2)


# Recipes


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
