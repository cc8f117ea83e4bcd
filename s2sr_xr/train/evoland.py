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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.degrade import add_noise, psf_downscale, reduce_scale
from s2sr_xr.errors import GridError, ModelError
from s2sr_xr.models.catalogue import EVOLAND
from s2sr_xr.train.losses import bicubic, over_bicubic

if TYPE_CHECKING:
    from collections.abc import Callable

    Network: TypeAlias = Callable[..., torch.Tensor]

__all__ = [
    "Adversarial",
    "Adversaries",
    "Example",
    "Pretraining",
    "Restoration",
    "align_range",
    "band_loss",
    "high_pass",
    "mosaic",
    "relativistic_loss",
    "simulated_batch",
    "two_rates",
    "wald_batch",
]

Batch: TypeAlias = Sequence[torch.Tensor]
"""``(B, 4, 2 h, 2 w)`` of the 10 m bands, ``(B, 6, h, w)`` of the 20 m bands, and for
simulation ``(B, 10, 4 h, 4 w)`` of a finer image; reflectance."""

TEN = 4
"""How many of the ten bands are 10 m bands; they come first."""

SPREAD = tuple(std for _, std in EVOLAND.values())
"""Deviation of each band in EvoLand's training set: the unit of a loss."""

SIMULATED_NOISE = (
    *(0.000578, 0.0008, 0.001358, 0.001622),
    *(0.00123, 0.00129, 0.001544, 0.00164),
)
"""Deviation of the noise on simulated images, B02 to B8A, before the draw."""

WALD_NOISE = (
    *(0.00040749, 0.000564, 0.00095739, 0.00114351, 0.0012226815),
    *(0.0012823245, 0.0015348132, 0.001630242, 0.0023777676, 0.002306196),
)
"""Deviation of the noise on Wald images, B02 to B12, before the draw."""

MTF = (0.3, 0.7)
"""Range of the contrast that a simulated sensor leaves at its Nyquist frequency."""

LOUD = (2.0, 3.0)
"""Range of the factor on the noise."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a network is shown, and what it should make of it."""

    images: tuple[torch.Tensor, torch.Tensor]
    """Its inputs: the finer group, and the coarser."""

    target: torch.Tensor
    """``(B, C, 2 H, 2 W)`` for a finer group of ``(B, 4, H, W)``."""

    bands: tuple[int, ...]
    """Which channels of the network's output the channels of `target` are."""


# Batches


def wald_batch(
    batch: Batch,
    generator: torch.Generator,
    *,
    mtf: tuple[float, float] = MTF,
    loud: tuple[float, float] = LOUD,
) -> Example:
    """Return real images four times coarser, and what is known of them at 20 m.

    The images are `psf_downscale` by 4 with noise: 40 m and 80 m pixels. The target is
    the 10 m bands by 2, and the real 20 m bands: all ten at 20 m, without noise. One
    MTF and one loudness are drawn for the batch.

    Raises
    ------
    GridError
        The batch is not of 4 bands at 10 m and 6 at 20 m of the same ground, or the
        sides of the 20 m images are not multiples of 4.
    """
    ten, twenty = batch[:2]
    _check_batch(ten, twenty)
    m, noise = _between(mtf, generator), _between(loud, generator)
    levels = [noise * n for n in WALD_NOISE]
    images = (
        add_noise(psf_downscale(ten, 4, m), levels[:TEN], generator),
        add_noise(psf_downscale(twenty, 4, m), levels[TEN:], generator),
    )
    target = torch.cat((psf_downscale(ten, 2, m), twenty), 1)
    return Example(images, target, tuple(range(10)))


def simulated_batch(
    batch: Batch,
    generator: torch.Generator,
    *,
    mtf: tuple[float, float] = MTF,
    loud: tuple[float, float] = LOUD,
) -> Example:
    """Return Sentinel-2 as simulated from a finer image, which is the target.

    Ten bands of the finer image, or the eight that Venus has: then B11 and B12 are the
    real ones, and no target. 10 m images are `psf_downscale` by 2, 20 m images by 4,
    both with noise. One MTF and one loudness are drawn for the batch.

    Raises
    ------
    GridError
        The finer image has neither 8 nor 10 bands, or is not twice as fine as the 10 m
        images.
    """
    ten, twenty, fine = batch
    _check_batch(ten, twenty)
    if fine.shape[1] not in (8, 10) or fine.shape[-2:] != _twice(ten):
        raise GridError(
            f"The finer image is of 8 or 10 bands with {tuple(_twice(ten))} pixels, "
            f"twice those of the 10 m images; got {tuple(fine.shape[1:])}"
        )
    m, noise = _between(mtf, generator), _between(loud, generator)
    levels = [noise * n for n in (*SIMULATED_NOISE, *WALD_NOISE[8:])]
    made = [
        add_noise(psf_downscale(bands, factor, m), std, generator)
        for bands, factor, std in (
            (fine[:, :TEN], 2, levels[:TEN]),
            (fine[:, TEN:], 4, levels[TEN : fine.shape[1]]),
        )
    ]
    coarse = torch.cat((made[1], twenty[:, made[1].shape[1] :]), 1)
    return Example((made[0], coarse), fine, tuple(range(fine.shape[1])))


def align_range(fine: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return a finer image whose bands span what the real bands span, patch by patch.

    Another sensor sees other reflectance; the network should not learn the difference.

    Parameters
    ----------
    fine
        ``(B, 8 or 10, H, W)``.
    batch
        The 10 m and 20 m bands of the same ground.
    """
    real = [b for group in batch[:2] for b in group.unbind(1)][: fine.shape[1]]
    low, high = (
        torch.stack([end(b.flatten(1), 1) for b in real], 1)[..., None, None]
        for end in (torch.amin, torch.amax)
    )
    flat = fine.flatten(2)
    first, last = flat.amin(2)[..., None, None], flat.amax(2)[..., None, None]
    # A band without spread keeps its own range, moved.
    scale = torch.where(last > first, (high - low) / (last - first), 1.0)
    return (fine - first) * scale + low


def mosaic(x: torch.Tensor) -> torch.Tensor:
    """Return ``(..., 2 H, 2 W)``: `x` and its mirror images, without a seam.

    So that a small patch has as many pixels as others, and its edges neighbours.
    """
    x = torch.cat((x, x.flip(-1)), -1)
    return torch.cat((x, x.flip(-2)), -2)


def _between(ends: tuple[float, float], generator: torch.Generator) -> float:
    low, high = ends
    return low + (high - low) * float(torch.rand((), generator=generator))


def _check_range(
    name: str, ends: tuple[float, float], least: float, most: float
) -> None:
    if len(ends) != 2 or not least <= ends[0] <= ends[1] <= most:
        raise ModelError(
            f"{name} is a range, two numbers from {least:g} to {most:g}; got {ends}."
        )


def _twice(x: torch.Tensor) -> torch.Size:
    return torch.Size(2 * n for n in x.shape[-2:])


def _check_batch(ten: torch.Tensor, twenty: torch.Tensor) -> None:
    if ten.shape[1] != TEN or twenty.shape[1] != 6 or ten.shape[-2:] != _twice(twenty):
        raise GridError(
            "A batch has 4 bands at 10 m and 6 at 20 m of the same ground; got "
            f"{tuple(ten.shape)} and {tuple(twenty.shape)}"
        )


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


def relativistic_loss(
    better: torch.Tensor, worse: torch.Tensor, smooth: float = 0.0
) -> torch.Tensor:
    """Return how little `better` looks more real than `worse` on average, and back.

    Binary cross entropy of logits ``(B, 1, h, w)`` less the batch mean of the others,
    pixel by pixel; `smooth` lowers what is asked of `better` from 1. The discriminator
    calls it with what it says of real and of made images, the generator the other way
    round.
    """
    up = better - worse.mean(0, keepdim=True)
    down = worse - better.mean(0, keepdim=True)
    ask = torch.full_like(up, 1 - smooth)
    rise = F.binary_cross_entropy_with_logits(up, ask)
    fall = F.binary_cross_entropy_with_logits(down, torch.zeros_like(down))
    return (rise + fall) / 2


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
        _check_range("mtf", self.mtf, 1e-3, 1)
        _check_range("loud", self.loud, 0, math.inf)

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


class Adversaries(nn.Module):
    """A generator and its discriminator, to be trained as one network.

    Parameters
    ----------
    generator
        What is wanted.
    discriminator
        Judges its bands.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def forward(self, *images: torch.Tensor, judge: str = "") -> torch.Tensor:
        """Return what the generator makes; or, for an image, how real it looks.

        With ``judge="fixed"`` the discriminator's weights get no gradient: it is the
        generator that is to change. With ``"learn"`` they do.
        """
        if not judge:
            return self.generator(*images)  # type: ignore[no-any-return]
        if judge == "learn":
            return self.discriminator(*images)  # type: ignore[no-any-return]
        fixed = {k: v.detach() for k, v in self.discriminator.named_parameters()}
        looks: torch.Tensor
        looks = torch.func.functional_call(self.discriminator, fixed, images)
        return looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversarial:
    """``evoland-gan``: pretraining's loss, and to look like a finer image.

    Both networks learn in the same step, each from its own loss; `fit` takes
    `Adversaries` and the optimiser of `two_rates`. The discriminator sees what is
    beyond half the sampling (`high_pass`) of bands with a finer truth.
    """

    pretraining: Pretraining = field(default_factory=Pretraining)
    """What keeps it faithful."""

    weight: float = 0.01
    """Of the adversarial loss: 0.01 by default, 0.005 in the paper's experiments."""

    bands: tuple[int, ...] = (0, 1, 2, 4, 5, 6, 7)
    """Which of the ten the discriminator sees: not B08, B11 and B12."""

    mtf: float = 0.4
    """Of the high pass."""

    smooth: float = 0.1
    """How far below 1 the discriminator is asked to rate real images."""

    def __post_init__(self) -> None:
        if not self.bands or not all(0 <= b < len(SPREAD) for b in self.bands):
            raise ModelError(
                f"bands are some of 0 to {len(SPREAD) - 1}; got {list(self.bands)}."
            )

    def __call__(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return the losses of both networks, added: they share no gradient."""
        faithful, made, example = self.pretraining.full(network, batch)
        faithful = faithful + self.pretraining.wald(network, batch)
        false, real = self.seen(made), self.seen(example.target)
        looks = [network(image, judge="fixed") for image in (false, real)]
        fooled = relativistic_loss(looks[0], looks[1].detach())
        told = [network(image, judge="learn") for image in (real, false.detach())]
        learnt = relativistic_loss(told[0], told[1], self.smooth)
        return faithful + self.weight * fooled + learnt

    def seen(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the discriminator sees of ten bands, sides multiples of 8."""
        edge = min(self.pretraining.edge, min(image.shape[-2:]) // 4)
        rows, cols = ((n - 2 * edge) // 8 * 8 for n in image.shape[-2:])
        bands = image[:, list(self.bands), edge : edge + rows, edge : edge + cols]
        unit = torch.tensor([SPREAD[b] for b in self.bands]).to(image)[:, None, None]
        return high_pass(bands / unit, self.mtf)


def two_rates(
    network: Adversaries, discriminator: float
) -> Callable[..., torch.optim.Optimizer]:
    """Return the optimiser of `fit`: another step size for the discriminator.

    Published: 1e-4 or 1e-6, where the generator has 2e-4.
    """

    def build(_: Any, lr: float) -> torch.optim.Optimizer:  # noqa: ANN401
        return torch.optim.Adam(
            [
                {"params": list(network.generator.parameters()), "lr": lr},
                {
                    "params": list(network.discriminator.parameters()),
                    "lr": discriminator,
                },
            ]
        )

    return build


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
        _check_range("loud", self.loud, 0, math.inf)

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
        noise = _between(self.loud, generator)
        levels = [noise * n for n in WALD_NOISE]
        stds = levels[:TEN], levels[TEN:]
        return [
            add_noise(image, std, generator)
            for image, std in zip(images, stds, strict=True)
        ]
