"""Adversarial training of Evoland: generator, discriminator and their steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.errors import ModelError
from s2sr_xr.train.recipes.evoland import SPREAD, Pretraining, high_pass

if TYPE_CHECKING:
    from collections.abc import Callable

    from s2sr_xr.train.data.evoland_batches import Batch

    Network: TypeAlias = Callable[..., torch.Tensor]

__all__ = ["Adversarial", "Adversaries", "relativistic_loss", "two_rates"]


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
