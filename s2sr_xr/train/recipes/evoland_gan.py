"""The recipe `evoland-gan`: a generator and a discriminator, trained together.

Its loss says nothing of its result: the generator that is kept is the one that makes
the most natural patches of held-out scenes (`judge_of`).

References
----------
Michel and Kalinicheva (2024), Building an operational shallow Sentinel-2 single image
super-resolution network for EvoLand prototypes, SUREDOS24.
Jolicoeur-Martineau (2019), The relativistic discriminator: a key element missing from
standard GAN, ICLR: the average of `relativistic_loss`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.errors import GridError, ModelError
from s2sr_xr.models.networks.discriminator import Discriminator
from s2sr_xr.train.checkpoint import keep_best
from s2sr_xr.train.data.augment import Augment
from s2sr_xr.train.data.evoland_batches import TEN
from s2sr_xr.train.data.patches import Rules, Sampler
from s2sr_xr.train.five_metres import (
    TWENTY,
    Recipe,
    Scenes,
    check_bands,
    check_finer,
    data,
    fit_scenes,
    inputs,
    network,
    sampler,
    settings_of,
)
from s2sr_xr.train.losses import SPREAD, high_pass
from s2sr_xr.train.niqe import fit_natural
from s2sr_xr.train.recipes.evoland_pretrain import Pretraining

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from s2sr_xr.train.data.augment import Patch
    from s2sr_xr.train.data.evoland_batches import Batch
    from s2sr_xr.train.data.scenes import Source
    from s2sr_xr.train.niqe import Natural
    from s2sr_xr.train.plan import Step
    from s2sr_xr.train.training import Data, Files, Training

    Network: TypeAlias = Callable[..., torch.Tensor]

__all__ = [
    "Adversarial",
    "Adversaries",
    "Choice",
    "Gan",
    "data",
    "judge_of",
    "network",
    "relativistic_loss",
    "settings",
    "steps",
    "train",
    "two_rates",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a checkpoint of the adversarial training is chosen."""

    every: int = 200
    """Steps between two scores."""

    patches: int = 16
    """Patches that are brought to 5 m for a score."""

    side: int = 48
    """Cells of 20 m along their side."""

    natural: int = 64
    """Patches of the 10 m bands that say what is natural."""

    block: int = 24
    """Pixels along the side of a block of the score."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise GridError(f"{name} of choice is 1 or more; got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gan(Recipe):
    """A recipe of two networks, and of choosing one of those that it passes."""

    features: int = 32
    """Channels of the discriminator's first scale."""

    discriminator: float = 1e-4
    """Step size of the discriminator."""

    choice: Choice = field(default_factory=Choice)
    """How a checkpoint is chosen."""


def settings(job: Training) -> Gan:
    """Return the settings of a job."""
    tables = {"pretraining": Pretraining, "choice": Choice}
    return settings_of(job, Adversarial, Gan, tables=tables)


def steps(
    settings: Gan, network: nn.Module, data: Data, files: Files
) -> Iterator[Step]:
    """Train the network, and yield each step."""
    return train(settings, network, data.source, files)


def train(
    recipe: Gan, network: nn.Module, scenes: Scenes, files: Files | None = None
) -> Iterator[Step]:
    """Train a generator, and yield each step, whose network is the generator.

    Parameters
    ----------
    recipe
        All settings.
    network
        The generator, trained in place.
    scenes
        `finer` is learnt from; `plain`, if any, says what is natural.
    files
        Checkpoint, log and best generator; None: nothing is written.
    """
    check_finer(recipe, scenes, plain=True)
    check_bands(recipe, scenes.finer, (TWENTY[:4], TWENTY))
    draw = sampler(recipe, scenes.finer)
    torch.manual_seed(recipe.plan.seed)
    assert isinstance(recipe.loss, Adversarial)
    both = Adversaries(
        network, Discriminator(len(recipe.loss.bands), features=recipe.features)
    )
    rates = two_rates(both, recipe.discriminator)
    made = fit_scenes(recipe, both, scenes, draw, files, optimiser=rates)
    generators = (s._replace(network=_generator(s.network)) for s in made)
    if files is None or files.best is None:
        return generators
    return keep_best(
        generators,
        judge_of(recipe, scenes),
        files.best,
        every=recipe.choice.every,
        last=recipe.plan.steps - 1,
    )


def _generator(network: nn.Module) -> nn.Module:
    assert isinstance(network, Adversaries)
    return network.generator


def judge_of(recipe: Gan, scenes: Scenes) -> Callable[[nn.Module], float]:
    """Return what scores a generator by the 10 m bands that it brings to 5 m.

    Natural is what the same bands look like at 10 m, in the scenes that are learnt
    from; judged are patches of `Scenes.held`, or, without these, others of those.
    Training sees neither at 5 m.
    """
    choice = recipe.choice
    natural: Natural | None = None
    learnt, held = inputs(scenes.plain or scenes.finer), inputs(scenes.held)
    patches = _patches(learnt, recipe, 1, choice.natural)
    judged = _patches(held or learnt, recipe, 2, choice.patches)

    def judge(network: nn.Module) -> float:
        nonlocal natural
        if natural is None:
            natural = fit_natural((ten for ten, _ in patches()), block=choice.block)
        device = next(network.parameters()).device
        made = []
        with torch.inference_mode():
            for patch in judged():
                bands = network(*(x[None].to(device) for x in patch))[0, :TEN]
                # Away from the border, where the network pads.
                edge = min(choice.block, bands.shape[-1] // 4)
                made.append(bands[:, edge:-edge, edge:-edge].cpu())
        return natural.score(made)

    return judge


def _patches(
    scenes: Sequence[Source], recipe: Gan, seed: int, count: int
) -> Callable[[], Iterator[Patch]]:
    """Return what gives patches as they are, always the same."""
    sampler = Sampler(
        scenes,
        side=recipe.choice.side,
        batch=1,
        seed=recipe.plan.seed * 3 + seed,
        rules=Rules(cloud=recipe.cloud),
        augment=Augment(gain=(1, 1), turn=False),
        windows=min(count, 16),
        steps=count,
        threads=0,
    )

    def draw() -> Iterator[Patch]:
        for step in range(count):
            yield tuple(group[0] for group in sampler(step))

    return draw


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
        judged = [network(image, judge="learn") for image in (real, false.detach())]
        learnt = relativistic_loss(judged[0], judged[1], self.smooth)
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
