"""The recipes of a network that brings ten bands to 5 m, from scenes to weights.

``restoration`` needs scenes alone, and is what the shipped network was trained with;
``evoland-pretrain`` and ``evoland-gan`` need a finer image of all bands that they
simulate Sentinel-2 from; ``pairs`` needs one of some bands, which may lie a little off.
What each learns is in `recipes.evoland` and `recipes.reference_pairs`::

    recipe = Recipe(loss=Restoration(), plan=Plan(steps=2700, lr=1e-3))
    for step in train(recipe, network, Scenes(plain=[source(tree, spec, "A")])):
        ...
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from s2sr_xr.errors import GridError, MissingBandError
from s2sr_xr.models.networks.discriminator import Discriminator
from s2sr_xr.models.published import EVOLAND
from s2sr_xr.train.checkpoint import keep_best
from s2sr_xr.train.data.augment import Augment
from s2sr_xr.train.data.evoland_batches import TEN
from s2sr_xr.train.data.patches import Rules, Sampler
from s2sr_xr.train.loop import fit
from s2sr_xr.train.niqe import fit_natural
from s2sr_xr.train.plan import Plan  # noqa: TC001 - train.config reads the types of settings
from s2sr_xr.train.recipes.evoland import Pretraining, Restoration
from s2sr_xr.train.recipes.evoland_gan import Adversarial, Adversaries, two_rates
from s2sr_xr.train.recipes.reference_pairs import Supervised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from s2sr_xr.train.checkpoint import Best
    from s2sr_xr.train.data.augment import Patch
    from s2sr_xr.train.data.scenes import Source
    from s2sr_xr.train.niqe import Natural
    from s2sr_xr.train.plan import Step

__all__ = ["Choice", "Gan", "Recipe", "Scenes", "begun", "judge_of", "train"]

R10, TWENTY = tuple(EVOLAND)[:TEN], tuple(EVOLAND)[TEN:]
"""Bands in the order of the network."""

MANY = 64
"""Scenes that a checkpoint names one by one; Sen2Venus has 130 000 patches."""

Loss: TypeAlias = Pretraining | Adversarial | Restoration | Supervised


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """Where patches come from."""

    plain: Sequence[Source] = ()
    """Groups of 10 m and of 20 m bands."""

    finer: Sequence[Source] = ()
    """The same, with one group more: what a finer sensor saw."""

    held: Sequence[Source] = ()
    """As `plain`, not learnt from: what a generator is judged by."""

    def __post_init__(self) -> None:
        for scene in (*self.plain, *self.finer, *self.held):
            counts = tuple(len(g.names) for g in scene.groups[:2])
            if counts != (TEN, 10 - TEN):
                names = ", ".join(b for g in scene.groups[:2] for b in g.names)
                raise MissingBandError(
                    f"{scene.name} has {names} at 10 m and 20 m; these recipes learn "
                    "all ten such bands. Version 1 of Sen2Venus lacks B11 and B12.",
                    scene=scene.name,
                )

    @property
    def inputs(self) -> list[Source]:
        """The scenes that are learnt from, without their finer images."""
        return [*self.plain, *_inputs(self.finer)]

    @property
    def names(self) -> list[str]:
        """Names of the scenes that are learnt from."""
        return [s.name for s in (*self.plain, *self.finer)]

    @property
    def digest(self) -> list[str]:
        """Names of the scenes, or, of a set of many, one that stands for them."""
        names = self.names
        if len(names) <= MANY:
            return names
        text = "\n".join(names).encode()
        return [f"{len(names)} scenes, {hashlib.sha256(text).hexdigest()[:16]}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, beside scenes and first weights."""

    loss: Loss
    """What is learnt."""

    plan: Plan
    """How long and how fast."""

    first: str = ""
    """Weights that it begins with: a name or a file; none: bicubic interpolation."""

    side: int = 48
    """Cells of 20 m along the side of a patch, a multiple of 8."""

    batch: int = 8
    """Patches a step."""

    finer_side: int = 24
    """As `side`, of the patches with a finer image that `restoration` adds."""

    finer_batch: int = 2
    """How many of these a step."""

    gain: tuple[float, float] = (0.5, 4.0)
    """Range that patches are brightened and darkened by."""

    odd: float = 0.0
    """Share of patches whose bands are each dimmed by a factor of their own."""

    cloud: float = 0.25
    """Largest share of cloud in a patch."""

    flat: float = 0.0
    """Least spread of a patch, in reflectance."""

    threads: int = 1
    """That read ahead; the batches are the same."""

    save_every: int = 200
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        sides = {"side": self.side, "finer_side": self.finer_side}
        for name, value in sides.items():
            if value < 16 or value % 8:
                raise GridError(
                    f"{name} is a multiple of 8 cells, 16 or more; got {value}"
                )
        for name in ("batch", "finer_batch", "save_every"):
            if getattr(self, name) < 1:
                raise GridError(f"{name} is 1 or more; got {getattr(self, name)}")
        if self.threads < 0:
            raise GridError(f"threads are 0 or more; got {self.threads}")


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


def begun(build: Callable[..., nn.Module], recipe: Recipe) -> nn.Module:
    """Return the network as it begins: bicubic interpolation, or first weights.

    Parameters
    ----------
    build
        From `s2sr_xr.models.published.published`, of a network with a skip.
    recipe
        What happens.

    Raises
    ------
    ModelError
        The first weights are of another network, or are not there.
    """
    from s2sr_xr.models.registry import load_model
    from s2sr_xr.models.weights_file import fill_network

    torch.manual_seed(recipe.plan.seed)
    network = build(padding="same")
    if recipe.first:
        state = load_model(recipe.first).state_dict()
        return fill_network(network, recipe.first, state)
    for weight in network.tail.parameters():  # type: ignore[union-attr]
        nn.init.zeros_(weight)
    return network


def train(
    recipe: Recipe,
    network: nn.Module,
    scenes: Scenes,
    *,
    checkpoint: Path | None = None,
    log: Path | None = None,
    best: Best | None = None,
) -> Iterator[Step]:
    """Train a network, and yield each step (`s2sr_xr.train.loop.fit`).

    Parameters
    ----------
    recipe
        What happens.
    network
        What `begun` gave; trained in place.
    scenes
        Where patches come from: `plain` and, where there are any, `finer` for
        `Restoration`; `finer` for the others, of which a `Gan` takes from `plain` what
        is natural.
    checkpoint, log
        As in `fit`, which says what else may be raised.
    best
        Of a `Gan`: the file of the generator that scores best. None: none is kept.

    Raises
    ------
    GridError
        There are no scenes of the kind, or none holds a patch.
    MissingBandError
        A finer image lacks bands that the recipe needs.
    """
    _check_finer(recipe.loss, scenes)
    draw = _draw(recipe, scenes)
    # Neither threads nor checkpoints change a weight.
    settings = asdict(replace(recipe, threads=0, save_every=1))
    loss = type(recipe.loss).__name__
    options: dict[str, Any] = {
        "checkpoint": checkpoint,
        "every": recipe.save_every,
        "log": log,
        "facts": {"loss": loss, "recipe": settings, "scenes": scenes.digest},
    }
    if scenes.held:
        options["facts"]["held"] = [s.name for s in scenes.held]
    if not isinstance(recipe, Gan):
        yield from fit(network, draw, recipe.loss, recipe.plan, **options)
        return
    assert isinstance(recipe.loss, Adversarial)
    torch.manual_seed(recipe.plan.seed)
    both = Adversaries(
        network, Discriminator(len(recipe.loss.bands), features=recipe.features)
    )
    options["optimiser"] = two_rates(both, recipe.discriminator)
    made = fit(both, draw, recipe.loss, recipe.plan, **options)
    steps = (replace(s, network=_generator(s.network)) for s in made)
    if best is None:
        yield from steps
        return
    yield from keep_best(
        steps,
        judge_of(recipe, scenes),
        best,
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
    learnt, held = _inputs(scenes.plain or scenes.finer), _inputs(scenes.held)
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


def _inputs(scenes: Sequence[Source]) -> list[Source]:
    """Return scenes without their finer group."""
    return [replace(s, groups=s.groups[:2], layers=s.layers[:2]) for s in scenes]


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


def _check_finer(loss: Loss, scenes: Scenes) -> None:
    """Raise unless finer images are there, with the bands that are learnt from them."""
    name = type(loss).__name__
    if not isinstance(loss, Restoration) and not scenes.finer:
        raise GridError(
            f"{name} learns from finer images, and none of {', '.join(scenes.digest)} "
            "has one: name them in finer=[...], take simulated scenes or an index of "
            "Sen2Venus, or learn by restoration, which needs none."
        )
    if isinstance(loss, Pretraining | Supervised) and scenes.plain:
        raise GridError(
            f"{scenes.plain[0].name} has no finer image, and {name} learns from no "
            "scene without one. Leave it out, or name its image in finer=[...].",
            scene=scenes.plain[0].name,
        )
    simulating = isinstance(loss, Pretraining | Adversarial)
    allowed = (TWENTY[:4], TWENTY) if simulating else (TWENTY,)
    for scene in scenes.finer if not isinstance(loss, Supervised) else ():
        names = scene.groups[-1].names
        if names[:TEN] != R10 or names[TEN:] not in allowed:
            missing = [b for b in (*R10, *allowed[0]) if b not in names]
            raise MissingBandError(
                f"{scene.name}: its finer image has {', '.join(names)}, and lacks "
                f"{', '.join(missing)}, which {name} needs. The recipe pairs learns "
                "from any bands.",
                scene=scene.name,
            )


def _draw(recipe: Recipe, scenes: Scenes) -> Callable[[int], Any]:
    """Return the batches of a recipe, step by step."""
    given: dict[str, Any] = {
        "seed": recipe.plan.seed,
        "rules": Rules(cloud=recipe.cloud, flat=recipe.flat),
        "augment": Augment(gain=recipe.gain, odd=recipe.odd),
        "threads": recipe.threads,
    }
    if not isinstance(recipe.loss, Restoration):
        return Sampler(scenes.finer, side=recipe.side, batch=recipe.batch, **given)
    real = Sampler(
        scenes.inputs,
        side=recipe.side,
        batch=recipe.batch,
        **given,
    )
    if not scenes.finer:
        return lambda step: (real(step),)
    truth = Sampler(
        scenes.finer, side=recipe.finer_side, batch=recipe.finer_batch, **given
    )
    return lambda step: (real(step), truth(step))
