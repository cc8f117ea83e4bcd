"""The recipe of the shipped DSen2-type weights, in the order it happens.

Run from Python, with any scenes::

    recipe = Recipe(model="dsen2-s-20m")
    for step, loss, network in fit(recipe, pairs):
        ...

References
----------
Lanaras et al. (2018), ISPRS Journal 146: L1 loss on reflectance / 0.2, one scale below.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.models.dsen2 import DSen2
from s2sr_xr.train.fit import Plan
from s2sr_xr.train.fit import fit as train
from s2sr_xr.train.pairs import Pair, patches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s2sr_xr.models.spec import ModelSpec

__all__ = ["Recipe", "first_network", "fit", "l1_inside", "ratio_to_bicubic"]

Batch: TypeAlias = tuple[tuple[torch.Tensor, ...], torch.Tensor]

EDGE = 4
"""Output pixels along the border of a patch that the loss leaves out: the network pads
there, and never does in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, beside the scenes."""

    spec: ModelSpec
    """The task."""

    features: int = 64
    """Channels of the trunk."""

    blocks: int = 6
    """Residual blocks of the trunk."""

    steps: int = 4000
    """Batches seen."""

    batch: int = 16
    """Patches a batch."""

    side: int = 24
    """Cells along the side of a patch."""

    lr: float = 1.5e-3
    """Highest step size of Adam; it rises for a twentieth of the steps, then falls as a
    cosine to a hundredth."""

    ema: float = 0.999
    """Weights are the running mean of the last ``1 / (1 - ema)`` steps or so."""

    seed: int = 0
    """Decides the first weights and every batch."""


def fit(
    recipe: Recipe,
    pairs: list[Pair],
    *,
    checkpoint: Path | None = None,
    log: Path | None = None,
) -> Iterator[tuple[int, float, DSen2]]:
    """Yield step, loss and the averaged network after each step.

    The loss is the mean absolute error in reflectance. The network that is yielded is
    one object that goes on changing; copy it to keep it. `checkpoint` and `log` are
    those of `s2sr_xr.train.fit.fit`, which says what else may be raised.

    Raises
    ------
    GridError
        No scene holds a patch.
    FloatingPointError
        The loss is not finite; the message names the step.
    """
    plan = Plan(steps=recipe.steps, lr=recipe.lr, ema=recipe.ema, seed=recipe.seed)

    def draw(step: int) -> Batch:
        sizes = {"side": recipe.side, "batch": recipe.batch}
        return patches(pairs, recipe.spec, **sizes, seed=recipe.seed, step=step)

    for made in train(
        first_network(recipe),
        draw,
        l1_inside,
        plan,
        checkpoint=checkpoint,
        log=log,
        facts=asdict(recipe) | {"scenes": [p.name for p in pairs]},
    ):
        yield made.step, made.loss, cast("DSen2", made.network)


def first_network(recipe: Recipe) -> DSen2:
    """Return the network that training begins with: bilinear interpolation."""
    torch.manual_seed(recipe.seed)
    spec = recipe.spec
    fine = spec.inputs[0].per_cell
    inputs = tuple((len(g.names), fine // g.per_cell) for g in spec.inputs)
    network = DSen2(
        inputs, features=recipe.features, blocks=recipe.blocks, padding="same"
    )
    torch.nn.init.zeros_(network.tail.weight)
    return network


def l1_inside(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean absolute error, in reflectance, away from the border."""
    images, target = batch
    inner = slice(EDGE, -EDGE)
    made: torch.Tensor = network(*images)
    return F.l1_loss(made[..., inner, inner], target[..., inner, inner])


@torch.inference_mode()
def ratio_to_bicubic(
    network: torch.nn.Module, spec: ModelSpec, pair: Pair, *, border: int
) -> dict[str, float]:
    """Return RMSE over that of bicubic interpolation, band by band.

    `border` output pixels along the edge are left out, and missing ones.
    """
    from s2sr_xr.metrics import rmse
    from s2sr_xr.models.resample import Upsample

    coarse = pair.images[-1][None]
    factor = spec.output.per_cell
    up = Upsample(factor, "bicubic")
    padded = F.pad(coarse, (up.reach,) * 4, mode="replicate")
    made = network(*(i[None] for i in pair.images))[0]
    inner = slice(border, -border or None)
    truth = pair.target[..., inner, inner].numpy()
    ours = rmse(made[..., inner, inner].numpy(), truth)
    theirs = rmse(up(padded)[0, ..., inner, inner].numpy(), truth)
    return dict(zip(spec.output.names, map(float, ours / theirs), strict=True))
