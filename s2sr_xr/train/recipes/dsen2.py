"""The recipe of the shipped DSen2-type weights, in the order it happens.

Run from Python, with any scenes::

    recipe = Recipe(spec=s2sr_xr.get_spec("dsen2-s-20m"))
    scenes = [source(tree, recipe.spec, "A")]
    for step, loss, network in fit(recipe, one_scale_below(recipe, scenes)):
        ...

References
----------
Lanaras et al. (2018), ISPRS Journal 146: L1 loss on reflectance / 0.2, one scale below.
That is ``loss="l1"``, with no mixtures and no strangers; the rest is ours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.errors import GridError, ModelError
from s2sr_xr.models.networks.dsen2 import DSen2
from s2sr_xr.models.published import PROJECT
from s2sr_xr.models.spec import ModelSpec  # noqa: TC001 - train.settings reads types
from s2sr_xr.train.data.augment import Augment
from s2sr_xr.train.data.pairs import Pair, estranged, patches
from s2sr_xr.train.data.patches import Rules, Sampler, band_means
from s2sr_xr.train.data.scenes import open_scenes, source
from s2sr_xr.train.loop import fit as train
from s2sr_xr.train.losses import over_bicubic
from s2sr_xr.train.optim import optimiser_of
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.settings import made
from s2sr_xr.train.training import Data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from s2sr_xr.train.data.scenes import Source
    from s2sr_xr.train.plan import Step
    from s2sr_xr.train.training import Files, Training

__all__ = [
    "Recipe",
    "data",
    "drawn",
    "first_network",
    "fit",
    "l1_inside",
    "network",
    "one_scale_below",
    "settings",
    "steps",
]

Batch: TypeAlias = tuple[tuple[torch.Tensor, ...], torch.Tensor]

ARCHITECTURE = ("features", "blocks", "guide", "project")
"""Fields of `Recipe` that decide the shape of the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, except the scenes."""

    spec: ModelSpec
    """The task."""

    features: int = 64
    """Channels of the trunk."""

    blocks: int = 6
    """Residual blocks of the trunk."""

    guide: bool = True
    """The network begins from local regression instead of bilinear interpolation."""

    project: float | None = None
    """Share of what the coarse bands say beyond the result that is projected back;
    None: as in the network that is published for the task, which weights are loaded
    into."""

    steps: int = 4000
    """Batches seen."""

    batch: int = 16
    """Patches a batch."""

    side: int = 28
    """Cells along the side of a patch."""

    edge: int = 8
    """Output pixels along the border of a patch that the loss leaves out: the network
    pads there, and never does in use."""

    lr: float = 1.5e-3
    """Highest step size; it rises for a twentieth of the steps, then falls as a cosine
    to a hundredth."""

    optimiser: Literal["adam", "muon"] = "adam"
    """How gradients become steps; the paper's is Adam, of the Nesterov kind."""

    loss: Literal["relative", "l1"] = "relative"
    """``"relative"``: of each band of each patch, RMSE over that of bicubic. ``"l1"``:
    mean absolute error in reflectance, which bright and rough patches decide."""

    mixed: float = 0.3
    """Share of patches whose bands are mixtures (`Augment.mixed`)."""

    cloud: float = 0.25
    """Largest share of cloud in a patch of `one_scale_below`."""

    flat: float = 0.0
    """Least spread of such a patch, in reflectance."""

    strangers: float = 0.05
    """Share of patches whose fine bands show other ground (`estranged`)."""

    ema: float = 0.999
    """Weights are the running mean of the last ``1 / (1 - ema)`` steps or so."""

    seed: int = 0
    """Decides the first weights and every batch."""

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ModelError(f"loss is {' or '.join(LOSSES)}; got {self.loss!r}.")
        optimiser_of(self.optimiser)
        if min(self.features, self.blocks, self.batch, self.side) < 1:
            raise ModelError(
                "features, blocks, batch and side are 1 or more; got "
                f"{self.features}, {self.blocks}, {self.batch} and {self.side}."
            )
        for name in ("mixed", "strangers"):
            if not 0 <= getattr(self, name) <= 1:
                raise ModelError(f"{name} is a share; got {getattr(self, name)!r}.")
        self.plan  # noqa: B018 - it checks itself as it is made
        pixels = self.side * self.spec.output.per_cell
        if not 0 <= 2 * self.edge < pixels:
            raise GridError(
                f"edge={self.edge} leaves nothing of a patch of {self.side} cells, "
                f"{pixels} pixels; take a larger side or a smaller edge."
            )

    @property
    def plan(self) -> Plan:
        """How long and how fast."""
        return Plan(steps=self.steps, lr=self.lr, ema=self.ema, seed=self.seed)


def settings(job: Training) -> Recipe:
    """Return the settings of a job."""
    # The architecture is not a setting: weights are loaded into the published one.
    own = {f.name: f.default for f in fields(Recipe) if f.name in ARCHITECTURE}
    given = {**job.entry.defaults, **job.settings}
    return made(Recipe, given, spec=job.spec, **own)


def data(job: Training, settings: Recipe) -> Data:
    """Return the scenes of a job, opened."""
    spec, (trees, levels) = settings.spec, open_scenes(job.scenes)
    sources = [source(tree, spec, name) for name, tree in trees]
    side = settings.side * spec.output.per_cell
    rules = Rules(cloud=settings.cloud, flat=settings.flat)
    means = band_means(sources, side=side, seed=settings.seed, rules=rules)
    return Data(
        source=one_scale_below(settings, sources),
        names=job.scenes,
        levels=levels,
        fill=dict(zip(spec.bands, means, strict=True)),
    )


def network(settings: Recipe, build: Callable[..., nn.Module]) -> nn.Module:  # noqa: ARG001
    """Return the network as training begins."""
    return first_network(settings)


def steps(settings: Recipe, network: DSen2, data: Data, files: Files) -> Iterator[Step]:
    """Train the network, and yield each step."""
    return fit(
        settings,
        data.source,
        first=network,
        names=data.names,
        checkpoint=files.checkpoint,
        log=files.log,
    )


def fit(
    recipe: Recipe,
    pairs: list[Pair] | Callable[[int], Batch],
    *,
    first: DSen2 | None = None,
    names: Sequence[str] = (),
    checkpoint: Path | None = None,
    log: Path | None = None,
) -> Iterator[Step]:
    """Train a network, and yield each step (`s2sr_xr.train.loop.fit`).

    The network begins from `first`, which is changed, or from `first_network`, and
    learns from pairs in memory, or from batches by step, such as `one_scale_below`.
    `names` are the names of what batches are taken from: a checkpoint of others is
    refused. `checkpoint` and `log` are those of `fit`, which says what else may be
    raised.

    Raises
    ------
    GridError
        No scene holds a patch.
    FloatingPointError
        The loss is not finite; the message names the step.
    """
    if callable(pairs):
        draw = pairs
    else:
        draw, names = partial(drawn, recipe, pairs), [p.name for p in pairs]
    return train(
        first or first_network(recipe),
        draw,
        partial(LOSSES[recipe.loss], edge=recipe.edge),
        recipe.plan,
        checkpoint=checkpoint,
        log=log,
        optimiser=optimiser_of(recipe.optimiser),
        facts=asdict(recipe) | {"scenes": list(names)},
    )


def drawn(
    recipe: Recipe, pairs: list[Pair], step: int, augment: Augment | None = None
) -> Batch:
    """Return the batch of a step, of patches from `pairs`; `GridError` if none fits.

    `augment` stands in for ``Augment(mixed=recipe.mixed)``.
    """
    images, target = patches(
        pairs,
        recipe.spec,
        side=recipe.side,
        batch=recipe.batch,
        seed=recipe.seed,
        step=step,
        augment=augment or Augment(mixed=recipe.mixed),
    )
    fine = estranged(images[0], recipe.strangers, (recipe.seed, step))
    return (fine, *images[1:]), target


def one_scale_below(
    recipe: Recipe, scenes: Sequence[Source], *, threads: int = 1
) -> Callable[[int], Batch]:
    """Return step -> batch, of patches that are read from scenes as they are needed.

    All bands of a patch are degraded by the factor of the task; its native coarse bands
    are what the network should make of that (Lanaras et al., section 4.1). Any number
    of scenes of any size fits in memory (`train.data.patches.Sampler`, which says
    what is raised).
    """
    factor = recipe.spec.output.per_cell
    taken = Sampler(
        scenes,
        side=recipe.side * factor,
        batch=recipe.batch,
        seed=recipe.seed,
        rules=Rules(cloud=recipe.cloud, flat=recipe.flat),
        augment=Augment(mixed=recipe.mixed),
        threads=threads,
    )

    def draw(step: int) -> Batch:
        native = taken(step)
        fine, *coarse = (reduce_scale(stack, factor) for stack in native)
        fine = estranged(fine, recipe.strangers, (recipe.seed, step))
        return (fine, *coarse), native[-1]

    return draw


def first_network(recipe: Recipe) -> DSen2:
    """Return the network that training begins with: regression or interpolation.

    Reflectance is positive, so that a kernel of the first layer with a negative sum
    gives nothing behind its ReLU, and learns nothing: half of them would. All begin
    with a positive one.
    """
    project = recipe.project
    if project is None:
        project = PROJECT.get(recipe.spec.cell, 0.0)
    torch.manual_seed(recipe.seed)
    network = DSen2(
        recipe.spec.factors,
        features=recipe.features,
        blocks=recipe.blocks,
        guide=recipe.guide,
        project=project,
        padding="same",
    )
    kernels = network.head.weight.data
    kernels.mul_(kernels.sum((1, 2, 3), keepdim=True).sign())
    torch.nn.init.zeros_(network.tail.weight)
    return network


def l1_inside(network: torch.nn.Module, batch: Batch, edge: int) -> torch.Tensor:
    """Return the mean absolute error, in reflectance, away from the border."""
    images, target = batch
    inner = slice(edge, -edge or None)
    made: torch.Tensor = network(*images)
    return F.l1_loss(made[..., inner, inner], target[..., inner, inner])


def relative_inside(network: torch.nn.Module, batch: Batch, edge: int) -> torch.Tensor:
    """Return the mean of `over_bicubic`, away from the border."""
    images, target = batch
    inner = slice(edge, -edge or None)
    made: torch.Tensor = network(*images)
    return over_bicubic(made[..., inner, inner], images[-1], target).mean()


LOSSES = {"relative": relative_inside, "l1": l1_inside}
